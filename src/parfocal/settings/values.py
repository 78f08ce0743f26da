"""Single values of settings: their types, lists of one value, and values that are overridden."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, create_model

from parfocal.models import MODELS
from parfocal.settings.errors import SettingsError, describe_invalid
from parfocal.settings.sections import SECTIONS

LISTS = (tuple, list, Sequence)
SINGLE_VALUES = (str, int, float, bool)
FINITE = ConfigDict(allow_inf_nan=False)  # of every number in settings


def setting_types(section: str, model: object) -> dict[str, Any]:
    """Return the type of each setting of a section, by name; none of an unknown section.

    Args:
        section: name of the section.
        model: name of the model, for section `model`; anything else has no settings.
    """
    if section == "model":
        known = isinstance(model, str) and model in MODELS
        return {each.name: each.type for each in MODELS[str(model)].settings} if known else {}
    return get_type_hints(SECTIONS[section], include_extras=True) if section in SECTIONS else {}


def as_list(expected: Any, value: object, name: str) -> object:
    """Return a single value for a setting that is a list as a list of one.

    >>> as_list(tuple[str, ...], "Pen", "slide.exclude_classes")
    ['Pen']
    >>> as_list(int | tuple[int, ...], 3, "model.k")
    3

    Args:
        expected: type of the setting.
        value: the value as given; lists and null are returned unchanged.
        name: section and key, for messages.

    Raises:
        SettingsError: the value is a text with commas, which may be one value or several.
    """
    if not isinstance(value, SINGLE_VALUES) or not _is_list(expected):
        return value
    if isinstance(value, str) and "," in value:
        raise SettingsError(f"{name}: {value!r} is not a list; write several values as [{value}].")
    return [value]


def refuse_truth_value(expected: Any, value: object, name: str) -> None:
    """Refuse true or false for a setting that is a number, which would count as 1 or 0.

    Args:
        expected: type of the setting.
        value: the value as given, or a list of values.
        name: section and key, for messages.

    Raises:
        SettingsError: it is such a value.
    """
    is_number = (_mentions(expected, int) or _mentions(expected, float)) and not _mentions(
        expected, bool
    )
    for each in value if isinstance(value, list | tuple) else [value]:
        if is_number and isinstance(each, bool):
            given = "true (also written yes or on)" if each else "false (also written no or off)"
            raise SettingsError(f"{name}: {given} is invalid; use a number.")


def check_value(section: str, key: str, value: object, *, model: str) -> None:
    """Check a value that a later one overrides, so that a mistake in it does not go unnoticed.

    Args:
        section: section of the setting.
        key: name of the setting; an unknown one is ignored.
        value: the value as given.
        model: name of the model, for section `model`.

    Raises:
        SettingsError: the value is invalid.
    """
    types = setting_types(section, model)
    if key not in types:
        return
    refuse_truth_value(types[key], value, f"{section}.{key}")
    members: dict[str, Any] = {key: (types[key], ...)}
    try:
        checked = create_model("one_value", __config__=FINITE, **members)(
            **{key: as_list(types[key], value, f"{section}.{key}")}
        )
        if section == "slide":  # has checks of its own, each of one setting
            given = {"magnifications": (1.0,), key: getattr(checked, key)}
            TypeAdapter(SECTIONS[section]).validate_python(given)
    except ValidationError as error:
        message = describe_invalid(error, f"{section}.")
        raise SettingsError(message) from None


def overridden(
    layers: Sequence[Mapping[str, Mapping[str, Any]]],
) -> list[tuple[str, str, object]]:
    """Return section, key and value of each setting that a later layer sets again."""
    return [
        (section, key, value)
        for number, layer in enumerate(layers)
        for section, values in layer.items()
        for key, value in values.items()
        if any(key in later.get(section, {}) for later in layers[number + 1 :])
    ]


def _mentions(expected: Any, kind: type) -> bool:
    """Return whether a type is a kind of value, or has it among its alternatives or members."""
    return expected is kind or any(_mentions(each, kind) for each in get_args(expected))


def _is_list(expected: Any) -> bool:
    """Return whether a type is a list of any length, or null, but no single value."""
    if get_origin(expected) is Annotated:
        return _is_list(get_args(expected)[0])
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in LISTS:
        return origin is not tuple or arguments[-1] is Ellipsis
    if origin in (None, Literal, dict):
        return False
    members = [each for each in arguments if each is not type(None)]
    return bool(members) and all(_is_list(each) for each in members)
