"""Process items in several workers, and try an item of a worker that died again elsewhere.

An engine starts the workers: processes of this machine, or actors of Ray. The name of an item goes
to a worker, and one small row comes back; workers read and write all files themselves.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from parfocal.distribute.worker import Answer, WorkerPlan

MAX_TRIES = 3  # workers that may die over one item

logger = logging.getLogger(__name__)


class Worker(Protocol):
    """A process somewhere that works on one item at a time."""

    def start(self, item: str) -> None:
        """Hand an item to the worker."""

    def close(self) -> None:
        """End the worker at once."""


class Workers(Protocol):
    """Starts workers, and waits for them."""

    @property
    def count(self) -> int:
        """Number of workers to use."""

    def open(self, plan: WorkerPlan) -> AbstractContextManager[None]:
        """Prepare to start workers that follow a plan, for a block."""

    def start_worker(self, index: int) -> Worker:
        """Start the worker of an index below `count`; its first answer says that it is ready."""

    def wait(self, workers: Sequence[Worker]) -> list[tuple[Worker, Answer]]:
        """Wait until at least one of some busy workers has an answer; return all answers."""


@dataclass(frozen=True)
class Row:
    """What a worker says of one item.

    Args:
        item: the item.
        value: what its function returned; None if workers died over it.
        died: why the last of `MAX_TRIES` workers died over the item; None if one answered.
    """

    item: str
    value: object
    died: str | None = None


@dataclass
class _Pool:
    """The state of `run_items`; its size depends on the number of workers only."""

    workers: Workers
    items: Iterator[str]
    again: deque[str] = field(default_factory=deque)
    tries: dict[str, int] = field(default_factory=dict)
    busy: dict[Worker, str | None] = field(default_factory=dict)  # None: not ready yet
    slots: dict[Worker, int] = field(default_factory=dict)
    early_deaths: int = 0

    def start_worker(self, index: int) -> None:
        worker = self.workers.start_worker(index)
        self.busy[worker], self.slots[worker] = None, index

    def next_item(self) -> str | None:
        return self.again.popleft() if self.again else next(self.items, None)

    def feed(self, worker: Worker) -> None:
        """Hand the next item to a worker; end the worker if there is none."""
        item = self.next_item()
        if item is None:
            self.busy.pop(worker)
            worker.close()
        else:
            self.busy[worker] = item
            worker.start(item)

    @property
    def is_working(self) -> bool:
        return any(item is not None for item in self.busy.values())

    def bury(self, worker: Worker, reason: str) -> Row | None:
        """Replace a worker that died; return the row of its item if that has no tries left."""
        item, index = self.busy.pop(worker), self.slots.pop(worker)
        worker.close()
        self.start_worker(index)
        if item is None:
            self.early_deaths += 1
            if self.early_deaths >= MAX_TRIES:
                raise WorkerDiedError(
                    f"{MAX_TRIES} workers ended before they were ready ({reason}). Run the command "
                    "without workers to see why; each needs the memory of one such process."
                )
            return None
        self.tries[item] = self.tries.get(item, 0) + 1
        if self.tries[item] < MAX_TRIES:
            logger.warning("%s: its worker died (%s); trying again", item, reason)
            self.again.append(item)
            return None
        del self.tries[item]
        return Row(
            item,
            None,
            f"{MAX_TRIES} workers died over it, the last one: {reason}. It may need more memory "
            "than there is; try it alone.",
        )


class WorkerDiedError(Exception):
    """Workers die before they work; the message says how."""


def run_items(items: Iterable[str], plan: WorkerPlan, workers: Workers) -> Iterator[Row]:
    """Process items in workers, and yield a row as each item ends.

    Items are taken from the iterable as workers become free, so there may be any number.

    Args:
        items: names of the items, each once.
        plan: what each worker does.
        workers: starts the workers.

    Raises:
        WorkerDiedError: workers die before they are ready.
        Exception: what building the function of a worker, or the function itself, raises.
    """
    pool = _Pool(workers, iter(items))
    with workers.open(plan):
        try:
            for index in range(workers.count):
                pool.start_worker(index)
            working = True
            while working:
                for worker, answer in workers.wait(list(pool.busy)):
                    row = _handle(pool, worker, answer)
                    if row is not None:
                        yield row
                working = bool(pool.again) or pool.is_working or _is_starting(pool)
        finally:
            for worker in pool.busy:
                worker.close()


def _is_starting(pool: _Pool) -> bool:
    """Return whether items are left for workers that are not ready yet."""
    if not pool.busy:
        return False
    item = pool.next_item()
    if item is not None:
        pool.again.appendleft(item)
    return item is not None


def _handle(pool: _Pool, worker: Worker, answer: Answer) -> Row | None:
    """Handle an answer, keep the worker busy, and return the row of an item that ended."""
    for record in answer.records:
        logging.getLogger(record.name).handle(record)
    if answer.died is not None:
        return pool.bury(worker, answer.died)
    if answer.error is not None:
        raise answer.error
    item = pool.busy[worker]
    pool.feed(worker)
    if item is None:
        return None
    pool.tries.pop(item, None)
    return Row(item, answer.value)
