"""Wrong usage: its error, and checks of the values of options before any work is done.

A check calls the parser of the library, which it imports when there is a value.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer


class ArgumentError(ValueError):
    """Wrong usage, whatever the files say; the message says what to give. The exit code is 2."""


@contextmanager
def wrong_usage(*kinds: type[Exception], prefix: str = "") -> Iterator[None]:
    """Turn errors of the library about the values of options into wrong usage.

    Args:
        kinds: classes of these errors.
        prefix: start of the message, to name the option.

    Raises:
        ArgumentError: there was one in the block.
    """
    try:
        yield
    except kinds as error:
        raise ArgumentError(f"{prefix}{error}") from error


def checked(check: Callable[[Any], object], *, prefix: str = "") -> Callable[[Any], Any]:
    """Return a callback of an option that refuses a value if a check of the library does.

    Args:
        check: function that raises ValueError for a wrong value; it is not called without a value.
        prefix: start of its messages that is left out, because the option is named.
    """

    def check_given(value: Any) -> Any:
        if value is not None:
            try:
                check(value)
            except ValueError as error:
                raise typer.BadParameter(str(error).removeprefix(prefix)) from None
        return value

    return check_given


def finite_number(value: float | None) -> float | None:
    """Check that a number is finite.

    Raises:
        typer.BadParameter: it is not.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is invalid; use a finite number")
    return value


def parse_magnifications(text: str) -> tuple[float, ...]:
    """Parse magnifications separated by commas, with or without "x".

    Raises:
        ValueError: one of them is not a number, or they do not ascend.
    """
    from parfocal.features.header import SlideSettings

    try:
        found = tuple(float(part.strip().removesuffix("x")) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a list like 2.5,5,10.") from None
    return SlideSettings(found).magnifications


def check_magnifications_or_range(text: str) -> None:
    """Raise ValueError if a text is neither magnifications nor a range, such as 2.5-20."""
    if "-" not in text:  # a range is checked with the model that takes it
        parse_magnifications(text)


def check_shard(text: str) -> None:
    """Raise ValueError if there is no such shard."""
    from parfocal.distribute.shards import parse_shard

    parse_shard(text)


def plausible_mpp(mpp: float) -> None:
    """Raise ValueError if no microscope has a resolution."""
    from parfocal.slide.resolution import check_mpp

    check_mpp(mpp)


def check_budget(text: str) -> None:
    """Raise ValueError if a text is not a budget; whether a model can follow it is seen later."""
    from parfocal.models.budget import parse_budget

    parse_budget(text)


def check_device(name: str) -> None:
    """Raise ValueError if torch knows no such device; whether it exists is seen later."""
    if name not in ("auto", "cpu", "cuda"):
        from parfocal.encoders.device import parse_device

        parse_device(name)
