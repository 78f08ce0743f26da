from dataclasses import dataclass, field
from typing import Literal

import pytest

from parfocal.validation import validate


@dataclass(frozen=True)
class Box:
    sides: tuple[float, ...]
    color: Literal["red", "blue"] = "red"
    weight: float | None = 1.0
    corner: tuple[int, int] = (0, 0)
    parts: dict[str, list[str]] = field(default_factory=dict)
    count: int = 1
    is_open: bool = False

    def __post_init__(self) -> None:
        if not self.sides:
            raise ValueError("sides: there are none.")


def test_lists_become_tuples_and_whole_numbers_floats():
    found = validate(Box, {"sides": [1, 2.5], "corner": [3, 4.0], "weight": None, "color": "blue"})
    assert found == Box((1.0, 2.5), "blue", None, (3, 4))
    assert [type(each) for each in (*found.sides, *found.corner)] == [float, float, int, int]


def test_nested_values_are_kept():
    assert validate(Box, {"sides": (1,), "parts": {"a": ["b"]}, "is_open": True}) == Box(
        (1.0,), parts={"a": ["b"]}, is_open=True
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "sides: missing"),
        ({"sides": ["a"]}, r"sides\.0: 'a' is not a number"),
        ({"sides": 3}, "sides: 3 is not a list"),
        ({"sides": "ab"}, "sides: 'ab' is not a list"),
        ({"sides": []}, r"sides: there are none\."),
        ({"sides": [True]}, r"sides\.0: True is not a number"),
        ({"sides": [10**400]}, r"sides\.0: 1000.* is too large"),
        ({"sides": [1], "color": "green"}, "color: 'green' is not one of red, blue"),
        ({"sides": [1], "color": ["red"]}, r"color: \['red'\] is not one of red, blue"),
        ({"sides": [1], "size": 3}, "size: unknown key"),
        ({"sides": [1], "weight": True}, "weight: True is not .*"),
        ({"sides": [1], "corner": [1]}, "corner: 1 values, not 2"),
        ({"sides": [1], "corner": [1, 2.5]}, r"corner\.1: 2.5 is not a whole number"),
        ({"sides": [1], "count": float("nan")}, "count: nan is not a whole number"),
        ({"sides": [1], "count": float("inf")}, "count: inf is not a whole number"),
        ({"sides": [1], "parts": [1]}, r"parts: \[1\] is not a mapping"),
        ({"sides": [1], "parts": {"a": ["b", 1]}}, r"parts\.a\.1: 1 is not a text"),
        ({"sides": [1], "is_open": 1}, "is_open: 1 is not true or false"),
    ],
)
def test_a_wrong_value_is_named(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        validate(Box, values)
