"""Protocols of the work of a command on one item, and of its optional parts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

from parfocal.slide.sources.url import SlidePath

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


@dataclass(frozen=True)
class Ended(Generic[Result]):
    """The result of an item, or why it failed.

    Args:
        item: the item.
        result: its result; None if it failed.
        reason: why it failed; None if it did not.
        by: "here" if this process or its workers processed it, "elsewhere" if another process did
            since this one began, "found" if its result existed before.
    """

    item: str
    result: Result | None
    reason: str | None = None
    by: Literal["here", "elsewhere", "found"] = "here"


@runtime_checkable
class Work(Protocol[Result_co]):
    """What a command does with one item.

    An engine that has workers in other processes sends the work to them, so it must be picklable.
    """

    @property
    def items(self) -> Sequence[str]:
        """The items in order, each once."""

    def find(self, item: str) -> Result_co | None:
        """Return the whole result of an item; None if there is none."""

    def process(self, item: str) -> Result_co:
        """Make the result of an item, and write it completely or not at all."""


@runtime_checkable
class ReadsSlides(Protocol):
    """Work that reads slides, which can be copied to a local disk before they are used."""

    def slide_files(self, item: str) -> Sequence[SlidePath]:
        """Return the slides that processing an item reads."""


@runtime_checkable
class ExpectsNext(Protocol):
    """Work that starts to read the next item while this process finishes the current one."""

    def expect(self, following: Callable[[], str | None]) -> None:
        """Prepare for the item after the one that is processed next.

        Args:
            following: returns that item, which another process may still process; None if there is
                none.
        """


@runtime_checkable
class Closed(Protocol):
    """Work that must be closed, such as work that stores a part of the results."""

    def close(self) -> None:
        """Finish the part of the results that this process stores."""


@runtime_checkable
class Prepared(Protocol):
    """Work that loads something before its first item; a failure is not that of the item."""

    def prepare(self) -> None:
        """Load what the items need, unless it is loaded."""
