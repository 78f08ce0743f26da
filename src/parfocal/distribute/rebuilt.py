"""Work that each process builds for itself, because what it has loaded cannot be sent."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from parfocal.distribute.work import Work

Result = TypeVar("Result")


class RebuiltWork(Generic[Result]):
    """Builds the work of another process again, before its first item; see `Work`.

    Args:
        items: the items.
        build: builds the work.
    """

    def __init__(self, items: Sequence[str], build: Callable[[], Work[Result]]) -> None:
        self.items, self._build = tuple(items), build
        self._work: Work[Result] | None = None

    def prepare(self) -> None:
        """Build the work, once."""
        if self._work is None:
            self._work = self._build()

    def find(self, item: str) -> Result | None:
        """Return the whole result of an item; None if there is none."""
        self.prepare()
        assert self._work is not None
        return self._work.find(item)

    def process(self, item: str) -> Result:
        """Make the result of an item."""
        self.prepare()
        assert self._work is not None
        return self._work.process(item)
