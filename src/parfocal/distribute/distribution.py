"""How the items of a command are divided among processes, and the engine that works in this one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from parfocal.distribute.shards import Shard
from parfocal.distribute.stopping import raise_if_stopped
from parfocal.distribute.work import Ended

if TYPE_CHECKING:
    from parfocal.distribute.worklist import WorkList

STAGED_AHEAD = 2  # items whose slides are copied while one is processed
EXPECTED = 8  # items among which the next one is looked for

Result = TypeVar("Result")


@runtime_checkable
class Engine(Protocol):
    """Makes attempts at items, here or in other processes."""

    @property
    def in_workers(self) -> bool:
        """Whether other processes make the attempts."""

    def attempt_all(
        self, work_list: "WorkList[Result]", items: Sequence[str]
    ) -> Iterator[Ended[Result]]:
        """Attempt each item once, and yield those that ended.

        Items that other processes have claimed are left out; the work list waits for them.
        """


@dataclass(frozen=True)
class Distribution:
    """How the items of a command are divided.

    Args:
        shard: the share of this command, which leaves the other items alone; None for all items.
        engine: makes the attempts; None to make one after the other in this process.
    """

    shard: Shard | None = None
    engine: Engine | None = None

    def device_here(self, device: str) -> str:
        """Return the device of this process: the CPU where workers use the given one."""
        return "cpu" if self.engine is not None and self.engine.in_workers else device


EVERYTHING_HERE = Distribution()


@runtime_checkable
class Attempts(Protocol[Result]):
    """What an engine of this process uses of a work list; see there."""

    @property
    def unit(self) -> str:
        """What is counted, in the plural."""

    def attempt(self, item: str) -> Ended[Result] | None:
        """Process an item unless it has ended."""

    def stage(self, item: str) -> None:
        """Start copying the slides of an item."""

    def expect(self, later: Sequence[str] | None) -> None:
        """Let the work begin with one of some items."""


class OneByOne:
    """Attempts items in this process, one after the other."""

    in_workers = False

    def attempt_all(
        self, work_list: Attempts[Result], items: Sequence[str]
    ) -> Iterator[Ended[Result]]:
        """Attempt each item once, and yield those that ended."""
        try:
            for number, item in enumerate(items):
                first = number + (STAGED_AHEAD if number else 1)
                for later in items[first : number + STAGED_AHEAD + 1]:
                    work_list.stage(later)
                work_list.expect(items[number + 1 : number + 1 + EXPECTED])
                raise_if_stopped(f"{number} of {len(items)} {work_list.unit}")
                ended = work_list.attempt(item)
                if ended is not None:
                    yield ended
        finally:
            work_list.expect(None)
