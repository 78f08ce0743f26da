from dataclasses import dataclass
from typing import Literal

import pytest

from parfocal.validation import validate


@dataclass(frozen=True)
class Box:
    sides: tuple[float, ...]
    color: Literal["red", "blue"] = "red"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.sides:
            raise ValueError("sides: there are none.")


def test_lists_become_tuples():
    assert validate(Box, {"sides": [1, 2.5], "color": "blue"}) == Box((1.0, 2.5), "blue")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "sides: field required"),
        ({"sides": ["a"]}, r"sides\.0: input should be a valid number.*"),
        ({"sides": 3}, "sides: input should be a valid tuple"),
        ({"sides": []}, r"sides: there are none\."),
        ({"sides": [1], "color": "green"}, "color: input should be 'red' or 'blue'"),
        ({"sides": [1], "size": 3}, "size: unknown key"),
        ({"sides": [1], "weight": True}, "weight: input should not be a truth value"),
    ],
)
def test_a_wrong_value_is_named(values, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        validate(Box, values)
