"""Budgets: how much of a slide a model that zooms may visit.

A budget takes the place of the model's K: the model visits as many of the patches it wants most as
the budget allows, more or fewer than K. The lowest magnification is always visited, because it
shows where to zoom; a budget below its cost cannot be met.
"""

import math
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

Unit = Literal["patches", "share", "seconds", "macs"]
UNITS: tuple[Unit, ...] = get_args(Unit)
SETTLED = "settled"
PREFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
EXAMPLES: dict[Unit, str] = {
    "patches": "patches=100",
    "share": "share=5%",
    "seconds": "seconds=2",
    "macs": "macs=50G",
}
HINTS: dict[Unit, str] = {
    "patches": "",
    "share": "",
    "seconds": ", without a unit",
    "macs": f", with the prefix {', '.join(PREFIXES)}, or without one",
}


class BudgetError(ValueError):
    """A budget that is invalid, or that the model cannot follow."""


@dataclass(frozen=True)
class Budget:
    """A fixed limit on what is visited of each slide.

    Args:
        unit: "patches" counts patches of all magnifications, "share" is their number as a share of
            the patches that exhaustive processing would encode, "seconds" counts from the opening
            of the slide, and "macs" counts the multiply-accumulates of encoding.
        amount: the limit; a share is a fraction, at most 1.
        random_seed: seed of a random order of visits, to compare with; None to visit the patches
            that the model wants most.

    Raises:
        BudgetError: the amount is not finite or not above 0, or a share is above 1.
    """

    unit: Unit
    amount: float
    random_seed: int | None = None

    def __post_init__(self) -> None:
        """Check the amount."""
        if not math.isfinite(self.amount):
            raise BudgetError(f"budget {self}: use a finite number, such as {EXAMPLES[self.unit]}.")
        if self.amount <= 0:
            raise BudgetError(
                f"budget {self}: a budget is more than 0; the lowest magnification has to be "
                "visited in any case."
            )
        if self.unit == "share" and self.amount > 1:
            raise BudgetError(f"budget {self}: a share of the patches is at most 100%.")

    def __str__(self) -> str:
        """Return the budget as `parse_budget` reads it."""
        order = "" if self.random_seed is None else " at random"
        return f"{self.unit}={self._amount_text}{order}"

    @property
    def _amount_text(self) -> str:
        if self.unit == "share":
            return f"{percent(self.amount)}%"
        if self.unit == "macs" and math.isfinite(self.amount):
            for prefix, scale in reversed(PREFIXES.items()):
                if self.amount >= scale:
                    return f"{self.amount / scale:.15g}{prefix}"
        return f"{self.amount:.15g}"


def all_met(each_met: Collection[bool | None]) -> bool | None:
    """Return whether all of several models met their budgets; None without a fixed budget."""
    return None if None in each_met else all(each_met)


def parse_budget(text: str) -> Budget | None:
    """Parse a budget such as `share=5%`; return None for `settled`, the rule of the run.

    >>> parse_budget("share=5%"), parse_budget("macs=50G").amount
    (Budget(unit='share', amount=0.05, random_seed=None), 50000000000.0)

    Raises:
        BudgetError: the text is not a budget.
    """
    if text.strip() == SETTLED:
        return None
    if "," in text and text.count("=") > 1:
        raise BudgetError(f"budget {text!r}: budgets cannot be combined; give only one.")
    name, equals, value = (part.strip() for part in text.partition("="))
    if name == SETTLED and equals:
        raise BudgetError(f"budget {text!r}: {SETTLED} takes no value; write {SETTLED}.")
    unit = next((each for each in UNITS if each == name), None)
    if unit is None:
        problem = f"{name!r} is not a unit"
        if not name or name[:1].isdigit():
            problem = "it has no unit"
        examples = f"{', '.join(EXAMPLES.values())} or {SETTLED}"
        raise BudgetError(f"budget {text!r}: {problem}; write {examples}.")
    return Budget(unit, _amount(text, unit, value))


def percent(share: float) -> str:
    """Return a share in percent, without the error of its binary form.

    >>> percent(0.07), percent(0.33333331)
    ('7', '33.333331')
    """
    return f"{100 * share:.15g}"


def _percent(text: str, value: str) -> str:
    """Return the number of a share in percent; refuse one that may be meant as a fraction."""
    number = value.removesuffix("%").strip()
    if not value.endswith("%") and is_fraction(number):
        raise BudgetError(
            f"budget {text!r}: a share is in percent; write share={100 * float(number):g}% or "
            f"share={number}%."
        )
    return number


def is_fraction(text: str) -> bool:
    """Return whether a text is a number between 0 and 1, which may be meant as a fraction.

    >>> is_fraction("0.05"), is_fraction("1"), is_fraction("5%")
    (True, False, False)
    """
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def _amount(text: str, unit: Unit, value: str) -> float:
    scale = 1.0
    if unit == "share":
        value, scale = _percent(text, value), 0.01
    if unit == "macs" and value[-1:] in PREFIXES:
        value, scale = value[:-1], PREFIXES[value[-1]]
    amount = math.nan
    with suppress(ValueError):
        amount = float(value)
    if not math.isfinite(amount):
        problem = f"{value!r} is not a finite number" if value else "it has no number"
        raise BudgetError(f"budget {text!r}: {problem}; write {EXAMPLES[unit]}{HINTS[unit]}.")
    if unit == "patches" and amount != int(amount):
        raise BudgetError(
            f"budget {text!r}: give a whole number of patches, such as {EXAMPLES[unit]}."
        )
    return amount * scale
