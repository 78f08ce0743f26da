"""The error of settings, and its message for a value of the wrong type or out of range."""

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from parfocal.validation import expected_values


class SettingsError(ValueError):
    """Settings that are invalid; the message names the setting, the value and what is allowed."""


class SettingsFileError(SettingsError):
    """A file of settings that cannot be read."""


def describe_invalid(error: ValidationError, section: str = "") -> str:
    """Return a one-line message about the first invalid value, with the allowed values.

    Args:
        error: the errors of all values.
        section: the section and a dot, if the locations of the errors do not include it.
    """
    errors = error.errors()
    first = errors[0]
    if first["type"] == "value_error":  # raised by our own checks
        place = [section.rstrip("."), *map(str, first["loc"])]
        return f"{'.'.join(filter(None, place))}.{first['ctx']['error']}"
    # A location is the setting's name, then positions in a list and the alternatives of a union.
    depth = 1 if section else 2
    name = first["loc"][:depth]
    setting = section + ".".join(map(str, name))
    if first["type"] == "missing" and first["loc"] == name:
        return f"{setting} is missing; add it."
    same = [each for each in errors if each["loc"][:depth] == name]
    deepest = max(same, key=_list_depth)
    expected = [_expected(each) for each in same if each["input"] is deepest["input"]]
    return (
        f"{setting}: {deepest['input']!r} is invalid; use {' or '.join(dict.fromkeys(expected))}."
    )


def _list_depth(error: ErrorDetails) -> int:
    return len([part for part in error["loc"] if isinstance(part, int)])


def _expected(error: ErrorDetails) -> str:
    return expected_values(error["type"], error.get("ctx", {}))
