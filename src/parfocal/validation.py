"""Check values read from a file against the types of a dataclass.

Reading a trained model or features needs this, and pydantic would take longer to import.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

# Type of an error of pydantic -> the values that are allowed.
EXPECTED = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("sequence_str", "is_instance_of", "tuple_type"), "a list"),
    "finite_number": "a finite number",
    "string_type": "text, in quotes if it looks like a number",
    "path_type": "a path",
    "dict_type": "values by magnification",
    "literal_error": "{expected}",
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "{le:g} or less",
    "less_than": "less than {lt:g}",
    "missing": "one more value",
    "too_long": "{max_length} values",
}
# What people, pandas, R and spreadsheets write into a cell that has no value.
NO_VALUE = frozenset(
    [
        *("na", "n/a", "n\\a", "n.a.", "n.a", "n. a.", "nan", "-nan", "nat", "null", "none", "nil"),
        *("missing", "not available", "not applicable", "not reported", "#n/a", "#na", "1.#qnan"),
        # In square brackets, as TCGA writes them.
        *("[not available]", "[not applicable]", "[not evaluated]", "[unknown]", "[discrepancy]"),
    ]
)
SPREADSHEET_ERROR = re.compile(r"#[a-z0-9/]+[!?]")  # such as #ref! and #div/0!
BRACKETS = (("<", ">"), ("(", ")"), ("[", "]"), ("'", "'"), ('"', '"'))
LONGEST = max(map(len, NO_VALUE)) + 2
NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def is_missing(text: str) -> bool:
    """Return whether a cell is empty, or has a word or mark for a missing value.

    >>> is_missing("NaN"), is_missing("<NA>"), is_missing("-"), is_missing("+"), is_missing("0")
    (True, True, True, False, False)
    """
    if len(text) > LONGEST:
        return False
    text = text.casefold()
    if text in NO_VALUE or SPREADSHEET_ERROR.fullmatch(text):
        return True
    if any(each.isalnum() or each == "+" for each in text):  # + may be a class
        return (text[0], text[-1]) in BRACKETS and text[1:-1] in NO_VALUE
    return True


def validate(kind: type[T], values: object) -> T:
    """Return an object of a dataclass with values that may have any type.

    Lists are converted to tuples where needed, and whole numbers to floating-point numbers.

    Args:
        kind: the dataclass. Its fields are numbers, texts, truth values, `Literal`, and tuples,
            lists, dicts and unions of these.
        values: value of each field, by name; anything but a mapping is an error.

    Raises:
        ValueError: a value is missing, unknown, or of the wrong type; the message names it.
    """
    types = get_type_hints(kind)
    if not isinstance(values, Mapping):
        raise ValueError(f"{values!r} is not a mapping")
    if unknown := sorted(str(key) for key in set(values) - set(types)):
        raise ValueError(f"{unknown[0]}: unknown key")
    for field in fields(kind):  # type: ignore[arg-type]
        has_default = field.default is not MISSING or field.default_factory is not MISSING
        if field.name not in values and not has_default:
            raise ValueError(f"{field.name}: missing")
    return kind(**{key: _convert(types[key], value, key) for key, value in values.items()})


def expected_values(error_type: str, context: Mapping[str, Any]) -> str:
    """Return which values are allowed where pydantic found an error.

    Args:
        error_type: key `type` of the error.
        context: key `ctx` of the error, with bounds and choices.
    """
    return EXPECTED.get(error_type, "another value").format(**context)


def _convert(expected: Any, value: Any, key: str) -> Any:
    """Return a value as the expected type, or raise a ValueError that names its key."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, UnionType):
        return _convert_to_any(arguments, value, key)
    if origin is Literal:
        if value not in arguments:
            choices = ", ".join(map(str, arguments))
            raise ValueError(f"{key}: {value!r} is not one of {choices}")
        return value
    if origin in (tuple, list):
        return _convert_sequence(origin, arguments, value, key)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"{key}: {value!r} is not a mapping")
        return {each: _convert(arguments[1], value[each], f"{key}.{each}") for each in value}
    if expected is NoneType and value is None:
        return None
    return _convert_simple(expected, value, key)


def _convert_to_any(choices: tuple[Any, ...], value: Any, key: str) -> Any:
    for choice in choices[:-1]:
        try:
            return _convert(choice, value, key)
        except ValueError:
            continue
    return _convert(choices[-1], value, key)


def _convert_sequence(origin: Any, types: tuple[Any, ...], value: Any, key: str) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key}: {value!r} is not a list")
    any_length = origin is list or types[-1] is Ellipsis
    if any_length:
        types = (types[0],) * len(value)
    if len(types) != len(value):
        raise ValueError(f"{key}: {len(value)} values, not {len(types)}")
    pairs = zip(types, value, strict=True)
    return origin(_convert(kind, each, f"{key}.{n}") for n, (kind, each) in enumerate(pairs))


def _convert_simple(expected: Any, value: Any, key: str) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if expected is float and is_number:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{key}: {value} is too large") from None
    if expected is int and is_number and value == value // 1:
        return int(value)
    if expected in (str, bool) and isinstance(value, expected):
        return value
    raise ValueError(f"{key}: {value!r} is not {NAMES.get(expected, expected)}")
