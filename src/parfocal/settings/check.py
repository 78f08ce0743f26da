"""Sections as read -> settings that make a run, or what is wrong with them in one line."""

import difflib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError, create_model
from pydantic_core import ErrorDetails

from parfocal.cells import octaves
from parfocal.models import MODELS
from parfocal.settings.sections import SECTIONS, ModelSettings, RunSettings

GIVEN_BY_THE_RUN = (
    *("in_dim", "num_classes", "num_magnifications", "num_slides", "generator"),
    *("magnifications", "patch_size"),
)
WANTED = {  # by what pydantic calls the error
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("sequence_str", "is_instance_of", "tuple_type"), "a list"),
    "finite_number": "a finite number",
    "string_type": "text, in quotes where it looks like a number",
    "path_type": "a path",
    "literal_error": "{expected}",
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "{le:g} or less",
    "less_than": "less than {lt:g}",
    "missing": "one value more",
    "too_long": "{max_length} values",
}


class SettingsError(ValueError):
    """Settings that make no run; the message says which, what and what to do."""


def validated(content: dict[str, Any], *, recipe: str) -> RunSettings:
    """Make settings of sections, keys and values as they were read.

    Args:
        content: by section.
        recipe: what has to hold all that a run needs, to be named where it does not.

    Raises:
        SettingsError: one is unknown, missing or wrong, or two do not go together.
    """
    _check_keys("section", content, list(SECTIONS))
    for section in ("slide", "model"):
        if section not in content:
            raise SettingsError(f"{recipe}: no section {section}; a run needs it.")
    if content["model"].get("name") is None:
        raise SettingsError(f"{recipe}: no model.name; give one of {', '.join(MODELS)}.")
    for section, values in content.items():
        for key, value in values.items():
            if isinstance(value, int) and abs(value) >= 2**63:
                raise SettingsError(f"{section}.{key}: {value} is refused; give less than 2**63.")
        if section != "model":
            _check_keys(
                f"{section} setting", values, [member.name for member in fields(SECTIONS[section])]
            )
    magnifications = content["slide"].get("magnifications")
    if isinstance(magnifications, str):  # 1.25,2.5 or 2.5-20 on a command line is no YAML list
        content = _with_magnifications(content, magnifications)
    model = _model(content["model"])
    if model.takes_pixels and "encoder" in content:
        raise SettingsError(
            f"encoder: model {model.name} encodes by itself, so it takes none; leave it out (its "
            "own network is model.backbone)."
        )
    alone = {"encoder": None} if model.takes_pixels else {}
    try:
        settings = TypeAdapter(RunSettings).validate_python({**content, **alone, "model": model})
    except ValidationError as error:
        raise SettingsError(_first_error(error)) from None
    _check_slide(settings)
    _check_train(settings)
    _check_model(settings)
    return settings


def unknown(what: str, found: str, known: Sequence[str]) -> str:
    """Say that a name is unknown, which there are, and which is nearest."""
    nearest = difflib.get_close_matches(found, known, 1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"unknown {what} {found!r}; known: {', '.join(known)}.{hint}"


def _with_magnifications(content: dict[str, Any], text: str) -> dict[str, Any]:
    """Read magnifications from a command line; of a range, a slide has those that fit it."""
    lowest, dash, highest = text.replace("x", "").partition("-")
    if not dash:
        return {**content, "slide": {**content["slide"], "magnifications": text.split(",")}}
    try:
        ladder = octaves(float(lowest), float(highest))
    except ValueError as error:
        raise SettingsError(f"slide.magnifications: {text!r} is refused: {error}.") from None
    slide = {**content["slide"], "magnifications": ladder}
    return {
        **content,
        "slide": slide,
        "model": {**content["model"], "skip_unavailable_magnifications": True},
    }


def _model(values: dict[str, Any]) -> ModelSettings:
    """Check a model's settings against the signature of its class, and fill in its defaults."""
    name = values["name"]
    if name not in list(MODELS):  # which may be asked about a list, too
        raise SettingsError(unknown("model", str(name), list(MODELS)))
    parameters = [
        parameter
        for parameter in inspect.signature(MODELS[name]).parameters.values()
        if parameter.name not in GIVEN_BY_THE_RUN
    ]
    given = {key: value for key, value in values.items() if key != "name"}
    _check_keys(f"{name} setting", given, [parameter.name for parameter in parameters])
    members: dict[str, Any] = {
        parameter.name: (parameter.annotation, parameter.default) for parameter in parameters
    }
    try:
        return ModelSettings(name, create_model(name, **members)(**given).model_dump())
    except ValidationError as error:
        raise SettingsError(_first_error(error, "model.")) from None


def _check_slide(settings: RunSettings) -> None:
    magnifications = settings.slide.magnifications
    names = ", ".join(f"{magnification:g}" for magnification in magnifications)
    ratios = [high / low for low, high in pairwise(magnifications)]
    nested = all(round(r) >= 2 and abs(r - round(r)) <= 1e-6 * r for r in ratios)
    if not (nested or settings.model.takes_pixels):
        raise SettingsError(
            f"slide.magnifications: [{names}] are not whole multiples, each of the one before, so "
            "patches would not nest; as 1.25,2.5,10."
        )
    if len(magnifications) > 1 and not settings.model.zooms:
        raise SettingsError(
            f"slide.magnifications: [{names}], and model {settings.model.name} looks at one only; "
            "give one."
        )


def _check_train(settings: RunSettings) -> None:
    train, model = settings.train, settings.model
    for name, asked in (("batch_size", train.batch_size > 1), ("augment", train.augment)):
        if asked and not model.takes_pixels:
            raise SettingsError(
                f"train.{name}: model {model.name} is given features of one slide at a time; leave "
                "it out (train.accumulate_grad_batches adds up several slides)."
            )


def _check_model(settings: RunSettings) -> None:
    """Build the model without weights, because it checks its own arguments."""
    arguments = settings.model_arguments(in_dim=1, num_classes=2, num_slides=1)
    whole = {key: n for key, n in settings.model.arguments.items() if type(n) is int}
    sizes = SettingsError(
        f"model {settings.model.name}: with {', '.join(f'{key}={n}' for key, n in whole.items())} "
        "it has a layer of no size, or of none that there is; correct them."
    )
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            model = MODELS[settings.model.name](**arguments)
    except ValueError as error:
        raise SettingsError(f"model {settings.model.name}: {error}") from None
    except RuntimeError as error:  # torch's, of a size below 0 or of more than memory has addresses
        raise sizes from error
    if not all(weights.numel() for weights in model.parameters()):
        raise sizes


def _check_keys(what: str, found: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in found:
        if key not in known:
            raise SettingsError(unknown(what, str(key), known))


def _first_error(error: ValidationError, section: str = "") -> str:
    """Say in one line what is wrong with the first value that is, and what would not be."""
    errors = error.errors()
    first = errors[0]
    if first["type"] == "value_error":  # in our own words
        return f"{section}{'.'.join(map(str, first['loc']))}.{first['ctx']['error']}"
    # After its name come places in a list, and the kinds a value may be of, each of which refuses.
    depth = 1 if section else 2
    name = first["loc"][:depth]
    place = section + ".".join(map(str, name))
    if first["type"] == "missing" and first["loc"] == name:
        return f"{place} is missing; give it."
    same = [each for each in errors if each["loc"][:depth] == name]
    worst = max(same, key=lambda each: len([part for part in each["loc"] if isinstance(part, int)]))
    wanted = [_wanted(each) for each in same if each["input"] is worst["input"]]
    return f"{place}: {worst['input']!r} is refused; give {' or '.join(dict.fromkeys(wanted))}."


def _wanted(error: ErrorDetails) -> str:
    return WANTED.get(error["type"], "another value").format(**error.get("ctx", {}))
