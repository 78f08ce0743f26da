"""Check values read from a file against the types of a dataclass."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

_adapter: Callable[[type], Any] = cache(TypeAdapter)


def validate(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return an object of a dataclass with values that may have any type.

    Lists are converted to tuples, and whole numbers to floating-point numbers where needed.

    Args:
        kind: the dataclass.
        values: value of each field.

    Raises:
        ValueError: a value is missing, unknown, or of the wrong type; the message names it.
    """
    types = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(types)):
        raise ValueError(f"{unknown[0]}: unknown key")
    for key, value in values.items():
        if isinstance(value, bool) and "bool" not in types[key]:  # pydantic takes it for a number
            raise ValueError(f"{key}: input should not be a truth value")
    try:
        result: T = _adapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        # Text of an exception of the dataclass itself, which names the field.
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{key}: {message.lower()}" if key else message) from None
    return result
