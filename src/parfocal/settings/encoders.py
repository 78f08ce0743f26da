"""Encoders by magnification: read them from settings, check them, and load them.

A setting of the section `encoder` is one value for all magnifications, or a value for each. In YAML
these are written as `{1.25: efficientnet-lite0, 10: virchow2}`, on a command line as
`1.25=efficientnet-lite0,10=virchow2`.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

from parfocal.encoders.catalog import find_card
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.right_use import refuse_outside_range, warn_of_patch_size
from parfocal.encoders.spec import Output
from parfocal.settings.errors import SettingsError
from parfocal.settings.sections import EncoderSettings
from parfocal.slide.resolution import mpp_of

MAGNIFICATION = r"\d+(?:\.\d+)?|\.\d+"
PAIR = re.compile(rf"\s*({MAGNIFICATION})x?\s*=\s*(.*\S)\s*", re.DOTALL)
# Only before another pair, because paths and addresses may contain commas.
SEPARATOR = re.compile(rf",(?=\s*(?:{MAGNIFICATION})x?\s*=)")
BY_MAGNIFICATION = ("name", "weights", "output")  # keys that may differ between magnifications


def parse_per_magnification(text: str) -> str | dict[float, str]:
    """Parse one value for all magnifications, or a value for each.

    >>> parse_per_magnification("uni2-h"), parse_per_magnification("1.25=tiny,10x=uni2-h")
    ('uni2-h', {1.25: 'tiny', 10.0: 'uni2-h'})

    Raises:
        SettingsError: a magnification is listed twice.
    """
    pairs = [PAIR.fullmatch(part) for part in SEPARATOR.split(text)]
    if pairs[0] is None:
        return text
    values: dict[float, str] = {}
    for pair in pairs:
        assert pair is not None  # the text is split where a pair begins
        magnification = float(pair[1])
        if magnification in values:
            raise SettingsError(f"{text!r}: {magnification:g}x is listed twice; list it once.")
        values[magnification] = pair[2]
    return values


def encoder_section(section: object) -> object:
    """Return the section `encoder` with its usual keys; anything but text and keys is unchanged.

    Args:
        section: a name, encoders by magnification, or keys and values.

    Raises:
        SettingsError: a magnification is listed twice, or is not a number.
    """
    if isinstance(section, str):
        section = {"name": section}
    if not isinstance(section, Mapping):
        return section
    by_magnification = {key: value for key, value in section.items() if _is_number(key)}
    if by_magnification:
        section = {key: value for key, value in section.items() if key not in by_magnification}
        if "name" in section:
            raise SettingsError(
                f"encoder: name and {', '.join(map(str, by_magnification))} are given; write the "
                "encoders by magnification only, as {1.25: NAME, 10: NAME}."
            )
        section = {"name": by_magnification, **section}
    read = {key: _by_magnification(key, section[key]) for key in BY_MAGNIFICATION if key in section}
    return {**section, **read}


def encoder_settings(
    name: str,
    magnifications: Sequence[float],
    *,
    weights: Path | None = None,
    output: str | None = None,
    any_mpp: bool = False,
    trust_remote_code: bool = False,
) -> EncoderSettings:
    """Return the settings of encoders that are given on a command line.

    Args:
        name: name of the encoder, or names by magnification as `1.25=NAME,10=NAME`.
        magnifications: magnifications to encode, lowest first.
        weights: file with the encoder's weights, or files by magnification, in the same form.
        output: output of the encoder, or outputs by magnification, in the same form.
        any_mpp: whether to use an encoder at resolutions that it was not made for.
        trust_remote_code: whether to run code from the repository of an encoder.

    Raises:
        SettingsError: a magnification has no encoder, or an encoder none of the magnifications; or
            the output is unknown.
    """
    files = None if weights is None else parse_per_magnification(str(weights))
    settings = EncoderSettings(
        name=parse_per_magnification(name),
        weights={key: Path(file) for key, file in files.items()}
        if isinstance(files, dict)
        else weights,
        output=None if output is None else _parse_outputs(output),
        any_mpp=any_mpp,
        trust_remote_code=trust_remote_code,
    )
    check_encoders(settings, magnifications)
    return settings


def _parse_outputs(text: str) -> Output | dict[float, Output]:
    """Parse one output, or outputs by magnification."""
    parsed = parse_per_magnification(text)
    by_magnification = parsed if isinstance(parsed, dict) else {0.0: parsed}
    known: dict[str, Output] = {each: each for each in get_args(Output)}
    for output in by_magnification.values():
        if output not in known:
            raise SettingsError(
                f"encoder.output {output!r} is not known; choose {', '.join(known)}."
            )
    outputs = {key: known[output] for key, output in by_magnification.items()}
    return outputs if isinstance(parsed, dict) else outputs[0.0]


def check_encoders(settings: EncoderSettings, magnifications: Sequence[float]) -> None:
    """Check that each magnification has an encoder, and each encoder a magnification.

    Raises:
        SettingsError: one has none.
    """
    names = ", ".join(f"{magnification:g}" for magnification in magnifications)
    for key in BY_MAGNIFICATION:
        value = getattr(settings, key)
        for magnification in value if isinstance(value, Mapping) else ():
            if magnification not in magnifications:
                raise SettingsError(
                    f"encoder.{key}: {magnification:g}x has {value[magnification]}, but the "
                    f"magnifications are {names}; remove it, or change slide.magnifications."
                )
    if not isinstance(settings.name, Mapping):
        return
    if isinstance(settings.weights, Path) and len(settings.name) > 1:
        raise SettingsError(
            f"encoder.weights: {settings.weights} is one file for several encoders; say for which, "
            f"as {magnifications[-1]:g}={settings.weights}."
        )
    for magnification in magnifications:
        if magnification not in settings.name:
            raise SettingsError(
                f"encoder.name (--encoder): {magnification:g}x has no encoder, and the "
                f"magnifications are {names}; add {magnification:g}=NAME."
            )


def load_encoders(
    settings: EncoderSettings,
    magnifications: Sequence[float],
    *,
    device: str = "cpu",
    patch_size: int | None = None,
) -> tuple[Encoder, ...]:
    """Load the encoder of each magnification; equal ones are one object.

    Args:
        settings: which encoder each magnification has.
        magnifications: magnifications, lowest first.
        device: device of the encoders.
        patch_size: side of a patch in pixels, to log if an encoder was made for others; None to
            skip this.

    Raises:
        ValueError: a name or the device is unknown.
        EncoderError: weights, or a package that is needed to get them, are missing or damaged, or
            an encoder was not made for the resolution of its magnification.
    """
    mpps = [mpp_of(magnification) for magnification in magnifications]
    if not settings.any_mpp:  # those of the catalog before their weights are loaded
        pairs = zip(map(settings.name_at, magnifications), mpps, strict=True)
        cards = [(card.spec(), mpp) for name, mpp in pairs if (card := find_card(name))]
        refuse_outside_range([spec for spec, _ in cards], [mpp for _, mpp in cards])
    load = cache(
        partial(
            load_encoder,
            device=device,
            runtime=settings.runtime,
            trust_remote_code=settings.trust_remote_code,
        )
    )
    encoders = tuple(
        load(
            settings.name_at(magnification),
            weights=settings.weights_at(magnification),
            output=settings.output_at(magnification),
        )
        for magnification in magnifications
    )
    specs = [encoder.spec for encoder in encoders]
    if not settings.any_mpp:
        refuse_outside_range(specs, mpps)
    if patch_size is not None:
        warn_of_patch_size(specs, mpps, patch_size)
    return encoders


def _by_magnification(key: str, value: object) -> object:
    """Return a value with magnifications as numbers, if it has any."""
    if isinstance(value, str):
        return parse_per_magnification(value)
    if not isinstance(value, Mapping):
        return value
    values: dict[float, Any] = {}
    for name, each in value.items():
        if not _is_number(name):
            raise SettingsError(
                f"encoder.{key}: {name!r} is not a magnification; write {{1.25: NAME, 10: NAME}}."
            )
        magnification = float(str(name).removesuffix("x"))
        if magnification in values:
            raise SettingsError(f"encoder.{key}: {magnification:g}x is listed twice.")
        values[magnification] = each
    return values


def _is_number(key: object) -> bool:
    return not isinstance(key, bool) and bool(re.fullmatch(f"(?:{MAGNIFICATION})x?", str(key)))
