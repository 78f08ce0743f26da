"""The error of wrong usage, and checks of the values of options before any work is done.

A check calls a parser of the library, and imports it only if the option is given.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer


class ArgumentError(ValueError):
    """Wrong usage, whatever the files contain; the message says what to give. Exit code 2."""


@contextmanager
def wrong_usage(*kinds: type[Exception], prefix: str = "") -> Iterator[None]:
    """Turn errors of the library about the values of options into wrong usage.

    Args:
        kinds: classes of these errors.
        prefix: start of the message, to name the option.

    Raises:
        ArgumentError: the block raised one of them.
    """
    try:
        yield
    except kinds as error:
        raise ArgumentError(f"{prefix}{error}") from error


def checked(check: Callable[[Any], object], *, prefix: str = "") -> Callable[[Any], Any]:
    """Return a callback of an option that refuses the values that a check of the library refuses.

    Args:
        check: function that raises ValueError for a wrong value; not called without a value.
        prefix: start of its messages to leave out, because the message names the option.
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
    """Raise ValueError if a text is not a shard, such as 3/8."""
    from parfocal.distribute.shards import parse_shard

    parse_shard(text)


def plausible_mpp(mpp: float) -> None:
    """Raise ValueError if a resolution is implausible for a microscope."""
    from parfocal.slide.resolution import check_mpp

    check_mpp(mpp)


def check_budget(text: str) -> None:
    """Raise ValueError if a text is not a budget; whether a model accepts it is checked later."""
    from parfocal.models.budget import parse_budget

    parse_budget(text)


def check_device(name: str) -> None:
    """Raise ValueError if a name is not that of a device; whether it exists is checked later."""
    if name not in ("auto", "cpu", "cuda"):
        from parfocal.encoders.device import parse_device

        parse_device(name)
