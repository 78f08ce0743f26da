"""Encoders of several magnifications: one for all of them, or one for each, lowest first."""

from collections.abc import Sequence
from typing import TypeVar

from parfocal.encoders.spec import EncoderSpec

Value = TypeVar("Value")


def per_magnification(value: Value | Sequence[Value] | None, count: int) -> tuple[Value, ...]:
    """Return one value for each magnification; none for None or an empty sequence.

    >>> per_magnification(7, 2), per_magnification([7, 8], 2)
    ((7, 7), (7, 8))

    Args:
        value: one value for all magnifications, or one for each, lowest first.
        count: number of magnifications.

    Raises:
        ValueError: there is neither one value nor one for each magnification.
    """
    if value is None:
        return ()
    if not isinstance(value, Sequence):
        return (value,) * count
    if value and len(value) != count:
        raise ValueError(
            f"{len(value)} encoders for {count} magnifications; give one encoder for all, or one "
            "for each, lowest magnification first."
        )
    return tuple(value)


def encoder_text(names: Sequence[str], magnifications: Sequence[float]) -> str | None:
    """Return the names of encoders as one text, as `--encoder` takes them.

    >>> encoder_text(["tiny", "tiny"], [1.25, 10])
    'tiny'
    >>> encoder_text(["tiny", "uni2-h"], [1.25, 10])
    '1.25=tiny,10=uni2-h'

    Args:
        names: name of the encoder of each magnification; empty for a model that takes pixels.
        magnifications: magnifications, lowest first.

    Returns:
        The text; None if there are no names.
    """
    if len(set(names)) <= 1:
        return names[0] if names else None
    pairs = zip(magnifications, names, strict=True)
    return ",".join(f"{magnification:g}={name}" for magnification, name in pairs)


def in_dim_of(encoders: Sequence[EncoderSpec]) -> int | list[int]:
    """Return the argument `in_dim` of a model.

    Args:
        encoders: encoder of each magnification, lowest first; empty for a model that takes pixels.

    Returns:
        The number of features per patch if one encoder is used for all magnifications; one number
        for each magnification otherwise, even if all are equal, because features of different
        encoders have different meanings. 0 without encoders.
    """
    if all(encoder == encoders[0] for encoder in encoders):
        return encoders[0].dim if encoders else 0
    return [encoder.dim for encoder in encoders]
