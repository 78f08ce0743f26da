"""Check sections as they were read from YAML, and convert them to the settings of a run."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError, create_model

from parfocal.cells import octaves
from parfocal.grid import whole_ratio
from parfocal.models import MODELS
from parfocal.models.contract import UsesTeacher
from parfocal.models.renamed import current_name
from parfocal.settings.check_devices import check_devices
from parfocal.settings.check_unit import check_unit
from parfocal.settings.encoders import check_encoders
from parfocal.settings.errors import SettingsError, describe_invalid
from parfocal.settings.renamed import renamed_key, renamed_value
from parfocal.settings.sections import SECTIONS, ModelSettings, RunSettings
from parfocal.settings.task import check_task
from parfocal.settings.values import FINITE, as_list, refuse_truth_value, setting_types


def check_settings(content: dict[str, Any], *, recipe: str) -> RunSettings:
    """Check the sections of a run and convert them to settings.

    Args:
        content: values by section and key, as read from YAML.
        recipe: name of the recipe, for messages about a missing section.

    Raises:
        SettingsError: a setting is unknown, missing or invalid, or two do not go together.
    """
    _check_sections(content, recipe)
    content = _parse_magnifications(content)
    content = {**content, **{each: _with_lists(content, each) for each in ("slide", "train")}}
    model = check_model_settings(content["model"])
    if not model.traits.takes_features and "encoder" in content:
        reason = (
            "takes pixels and has its own network (model.backbone)"
            if model.traits.takes_pixels
            else "opens no slide"
        )
        raise SettingsError(
            f"encoder: model {model.name} {reason}; leave out --encoder and --trust-remote-code, "
            "or remove the section encoder."
        )
    if not model.traits.takes_features:
        content = {**content, "encoder": None}
    try:
        settings = TypeAdapter(RunSettings).validate_python({**content, "model": model})
    except ValidationError as error:
        raise SettingsError(describe_invalid(error)) from None
    _check_magnifications(settings)
    if settings.encoder is not None:
        check_encoders(settings.encoder, settings.slide.magnifications)
    _check_train(settings)
    _check_random_budgets(settings)
    check_unit(settings)
    check_devices(settings)
    _check_model_builds(settings)
    return settings


def check_model_settings(values: dict[str, Any]) -> ModelSettings:
    """Check a model's settings against the arguments of its class, and fill in the defaults.

    Args:
        values: the model's name as `name`, and settings by name.

    Raises:
        SettingsError: the model or a setting is unknown, or a value is invalid.
    """
    name = values["name"]
    if name not in list(MODELS):  # a list, because a value from YAML may be unhashable
        if current_name(name) != name:
            raise SettingsError(f"model.name={name}: this model is now {current_name(name)}.")
        raise SettingsError(unknown_name("model", str(name), list(MODELS)))
    given = {key: value for key, value in values.items() if key != "name"}
    settings = MODELS[name].settings
    refuse_renamed({"model": values})
    _check_keys(f"{name} setting", given, [each.name for each in settings])
    given = _with_lists({"model": values}, "model")
    members: dict[str, Any] = {each.name: (each.type, each.default) for each in settings}
    try:
        checked = create_model(name, __config__=FINITE, **members)(**given).model_dump()
    except ValidationError as error:
        raise SettingsError(describe_invalid(error, "model.")) from None
    for key in given:
        _refuse_negative(f"model.{key}", checked[key])
    return ModelSettings(name, checked)


def _refuse_negative(name: str, value: object) -> None:
    """Refuse a negative number, which no setting of a model takes, and sizes of 0 pixels."""
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, int | float) and each < 0:
            raise SettingsError(f"{name}: {each!r} is invalid; it cannot be negative.")
        if name.endswith("_px") and each == 0:
            raise SettingsError(f"{name}: {each!r} is invalid; use 1 or more.")


def unknown_name(kind: str, name: str, allowed: Sequence[str]) -> str:
    """Return a message about an unknown name, with the allowed names and the nearest of them.

    Args:
        kind: what is named, such as "recipe".
        name: the unknown name.
        allowed: the allowed names.
    """
    nearest = difflib.get_close_matches(name, allowed, 1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"unknown {kind} {name!r}; known: {', '.join(allowed)}.{hint}"


def _check_sections(content: dict[str, Any], recipe: str) -> None:
    """Refuse unknown and missing sections, wrong keys, and numbers that overflow 64 bits."""
    refuse_renamed(content)
    for section in content:
        if section not in SECTIONS:
            raise SettingsError(unknown_name("section", str(section), list(SECTIONS)))
    for section in ("slide", "model"):
        if section not in content:
            raise SettingsError(f"{recipe}: section {section} is missing; add it.")
    if content["model"].get("name") is None:
        raise SettingsError(
            f"{recipe}: model.name is missing; set it to one of {', '.join(MODELS)}."
        )
    for section, values in content.items():
        for key, value in values.items():
            if isinstance(value, int) and abs(value) >= 2**63:
                raise SettingsError(f"{section}.{key}: {value} is too large; use less than 2**63.")
        if section != "model":
            allowed = [member.name for member in fields(SECTIONS[section])]
            _check_keys(f"{section} setting", values, allowed)


def refuse_renamed(content: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse keys and values that were renamed; the message lists all of them.

    Args:
        content: values by section and key.

    Raises:
        SettingsError: there are such keys or values.
    """
    model = content.get("model", {}).get("name")
    model = model if model in list(MODELS) else None
    keys, values = [], []
    for section, given in content.items():
        allowed = setting_types(section, model)
        for key, value in given.items():
            new_key = renamed_key(section, str(key), model)
            new_value = renamed_value(section, str(key), value, model)
            if key not in allowed and new_key is not None:
                keys.append(f"{section}.{key} was renamed to {section}.{new_key}")
            elif new_value is not None:
                values.append(f"{section}.{key}: {value!r} was renamed to {new_value!r}")
    if keys or values:
        raise SettingsError(f"{', '.join([*keys, *values])}.")


def _check_keys(kind: str, values: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Refuse unknown keys."""
    for key in values:
        if key not in allowed:
            raise SettingsError(unknown_name(kind, str(key), allowed))


def _with_lists(content: Mapping[str, Mapping[str, Any]], section: str) -> dict[str, Any]:
    """Return a section in which a single value for a list is a list of one."""
    types = setting_types(section, content.get("model", {}).get("name"))
    values = content.get(section, {})
    # `name` of a model is none of its settings.
    known = {key: value for key, value in values.items() if key in types}
    for key, value in known.items():
        refuse_truth_value(types[key], value, f"{section}.{key}")
    return {key: as_list(types[key], value, f"{section}.{key}") for key, value in known.items()}


def _parse_magnifications(content: dict[str, Any]) -> dict[str, Any]:
    """Parse magnifications given as text: "2.5,5,10" or a range "2.5-20".

    Of a range, each slide uses the magnifications that it has.
    """
    text = content["slide"].get("magnifications")
    if not isinstance(text, str):
        return content
    lowest, dash, highest = text.replace("x", "").partition("-")
    if not dash:
        return {**content, "slide": {**content["slide"], "magnifications": text.split(",")}}
    name = content["model"]["name"]
    if name in list(MODELS) and not MODELS[name].traits.skips_magnifications:
        raise SettingsError(
            f"slide.magnifications: {text!r} is a range, but model {name} needs a list, such as "
            "2.5,5,10."
        )
    try:
        magnifications = octaves(float(lowest), float(highest))
    except ValueError as error:
        raise SettingsError(f"slide.magnifications: {text!r} is invalid: {error}.") from None
    return {
        **content,
        "slide": {**content["slide"], "magnifications": magnifications},
        "model": {**content["model"], "skip_unavailable_magnifications": True},
    }


def _check_magnifications(settings: RunSettings) -> None:
    magnifications, traits = settings.slide.magnifications, settings.model.traits
    names = ", ".join(f"{magnification:g}" for magnification in magnifications)
    nested = all(whole_ratio(high, low) for low, high in pairwise(magnifications))
    if not (nested or traits.takes_pixels):
        raise SettingsError(
            f"slide.magnifications: [{names}] must each be a whole multiple of the one before, "
            "so that patches nest; for example 2.5,5,10."
        )
    if len(magnifications) > 1 and not traits.multiple_magnifications:
        raise SettingsError(
            f"slide.magnifications: [{names}], but model {settings.model.name} uses one "
            "magnification; give one."
        )


def refuse_single_magnification(settings: RunSettings) -> None:
    """Refuse one magnification for a model that zooms; runs of before are still read.

    Raises:
        SettingsError: the model has nothing to zoom into.
    """
    traits = settings.model.traits
    if len(settings.slide.magnifications) == 1 and traits.zooms and traits.fixed_magnifications:
        raise SettingsError(
            f"slide.magnifications: [{settings.slide.magnifications[0]:g}] is one magnification, "
            f"and model {settings.model.name} zooms from one to the next; give at least two, as "
            "2.5,10, or choose a model of one magnification, such as abmil."
        )


def _check_train(settings: RunSettings) -> None:
    train, model = settings.train, settings.model
    if train.teacher is not None and not model.traits.uses_teacher:
        raise SettingsError(
            f"train.teacher: model {model.name} does not learn from another model; remove it, or "
            "use the recipe coarse-student."
        )
    check_task(settings)
    for name, is_set in (("batch_size", train.batch_size > 1), ("augment", train.augment)):
        if is_set and not model.traits.takes_pixels:
            raise SettingsError(
                f"train.{name}: model {model.name} trains on the features of one slide at a time; "
                "remove it (train.accumulate_grad_batches sums the gradients of several slides)."
            )


def _check_random_budgets(settings: RunSettings) -> None:
    """Refuse partial bags for a model that visits every patch."""
    traits = settings.model.traits
    if settings.train.random_budgets and (traits.takes_pixels or not traits.zooms):
        raise SettingsError(
            f"train.random_budgets=true: model {settings.model.name} does not zoom into patches, "
            "so it has no budget; set it to false."
        )


def _check_model_builds(settings: RunSettings) -> None:
    """Build the model without memory for its weights: a model checks its own arguments."""
    several = settings.encoder is not None and isinstance(settings.encoder.name, dict)
    in_dim = [1] * len(settings.slide.magnifications) if several else 1
    arguments = settings.model_arguments(in_dim=in_dim, num_classes=2, num_slides=1)
    sizes = [f"{key}={n}" for key, n in settings.model.arguments.items() if type(n) is int]
    invalid_size = SettingsError(
        f"model {settings.model.name}: one of {', '.join(sizes)} is not a valid size of a layer; "
        "correct it."
    )
    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            model = MODELS[settings.model.name].build(**arguments)
    except ValueError as error:
        raise SettingsError(f"model {settings.model.name}: {error}") from None
    except RuntimeError as error:  # from torch: a negative size, or one beyond the address space
        raise invalid_size from error
    if not all(weights.numel() for weights in model.parameters()):
        raise invalid_size
    if settings.train.teacher and isinstance(model, UsesTeacher) and not model.needs_teacher:
        raise SettingsError(
            f"train.teacher: with these settings, model {settings.model.name} does not learn from "
            "another model; remove it, or set model.ranking=teacher."
        )
