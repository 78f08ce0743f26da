"""The encoders in a checkpoint: one for all magnifications, or one for each.

In checkpoint.json, `encoder` and `encoder_weights` are one value for all magnifications, or a list
with one for each, lowest first.
"""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeVar

from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.right_use import warn_outside_range
from parfocal.encoders.spec import UNKNOWN_WEIGHTS, EncoderSpec
from parfocal.encoders.weights import WEIGHTS_OPTION, EncoderError, MissingPackageError
from parfocal.models.description import CheckpointError
from parfocal.validation import validate

Runtime = Literal["auto", "torch", "onnx"]
Value = TypeVar("Value")

RUN_WEIGHTS_OPTION = "--encoder-at PATH"  # of predict and evaluate
COMPARED = ("weights_hash", "preparation")


def load_trained_encoders(
    encoders: Sequence[EncoderSpec],
    weights: Sequence[Path | None],
    *,
    mpps: Sequence[float],
    moved: Path | Sequence[Path | None] | None,
    device: str,
    runtime: Runtime,
    trust_remote_code: bool = False,
) -> tuple[Encoder, ...]:
    """Load the encoders that a model was trained with; equal ones are one object.

    Args:
        encoders: encoder of each magnification, lowest first; empty for a model that takes pixels.
        weights: weights file of each encoder; None for published weights. Empty if all are.
        mpps: µm per pixel of each magnification, to log which encoder was not made for it.
        moved: weights files that replace these, one for all encoders or one for each.
        device: device of the encoders.
        runtime: library that runs the encoders.
        trust_remote_code: whether to run code from the repository of an encoder.

    Raises:
        CheckpointError: the encoder of a name differs from the one of the training.
        ValueError: there are not as many files as encoders.
    """
    if encoders:
        warn_outside_range(encoders, mpps)
    none: tuple[Path | None, ...] = (None,) * len(encoders)
    replaced = moved if isinstance(moved, Sequence) else (moved,) * len(encoders)
    load = cache(
        partial(_load, device=device, runtime=runtime, trust_remote_code=trust_remote_code)
    )
    triples = zip(encoders, replaced, weights or none, strict=True)
    return tuple(load(encoder, new or old) for encoder, new, old in triples)


def _load(
    spec: EncoderSpec,
    weights: Path | None,
    *,
    device: str,
    runtime: Runtime,
    trust_remote_code: bool,
) -> Encoder:
    """Load an encoder, and check that it is the one of the training.

    Of an encoder that another tool has run, the weights are unknown: only the number of features is
    compared.
    """
    by_other_tool = spec.weights_hash == UNKNOWN_WEIGHTS
    problem = None
    if by_other_tool and not spec.address:
        from parfocal.features.foreign.encoder_names import (  # noqa: PLC0415 (HDF5 takes time)
            encoder_problem,
        )

        problem = encoder_problem(spec)
    if problem is not None:
        raise CheckpointError(
            f"the model was trained on features that another tool made, and {problem}. Extract "
            "the features of these slides with that tool, and give them with --features."
        )
    try:
        loaded = load_encoder(
            spec.address or spec.name,
            device=device,
            weights=weights,
            runtime=runtime,
            output=spec.output,
            trust_remote_code=trust_remote_code,
        )
    except EncoderError as error:
        message = _advice_for_run(error)
        if message == str(error):
            raise
        raise EncoderError(message) from error
    for name in ("dim",) if by_other_tool else COMPARED:
        expected, actual = getattr(spec, name), getattr(loaded.spec, name)
        if expected != actual:
            raise CheckpointError(
                f"encoder {spec.name}: the model was trained with {name} {expected}, and the "
                f"loaded encoder has {actual}; give the weights of the training, or train again."
            )
    return loaded


def _advice_for_run(error: EncoderError) -> str:
    """Return a message with the option that names weights for a trained model.

    Another encoder is no advice, because the model needs the one of its training.
    """
    text = str(error)
    if isinstance(error, MissingPackageError) and WEIGHTS_OPTION not in text:
        return error.found
    return text.replace(WEIGHTS_OPTION, RUN_WEIGHTS_OPTION)


def parse_encoders(stored: object, count: int) -> tuple[EncoderSpec, ...]:
    """Return the encoder of each magnification from checkpoint.json; none for null.

    Args:
        stored: value of the key `encoder`.
        count: number of magnifications.

    Raises:
        ValueError: the value is wrong.
    """
    if stored is None:
        return ()
    if not isinstance(stored, list):
        return (validate(EncoderSpec, stored),) * count
    if len(stored) != count:
        raise ValueError(f"encoder: {len(stored)} for {count} magnifications")
    return tuple(validate(EncoderSpec, each) for each in stored)


def parse_weights(stored: object, count: int) -> tuple[Path | None, ...]:
    """Return the weights file of each encoder from checkpoint.json; none if all are published.

    Args:
        stored: value of the key `encoder_weights`.
        count: number of encoders.

    Raises:
        ValueError: the value is wrong.
    """
    paths = stored if isinstance(stored, list) else [stored] * count
    if len(paths) != count:
        raise ValueError(f"encoder_weights: {len(paths)} for {count} encoders")
    files = tuple(None if path is None else Path(str(path)) for path in paths)
    return files if any(files) else ()


def one_or_list(values: Sequence[Value]) -> Value | list[Value] | None:
    """Return the value that all magnifications share, the list of their values, or None."""
    if all(value == values[0] for value in values):
        return values[0] if values else None
    return list(values)
