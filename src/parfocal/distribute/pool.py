"""Process items in several workers, and try an item of a worker that died again elsewhere.

The workers are processes of this machine, or actors of Ray. The name of an item goes to a worker,
and one small row comes back; workers read and write all files themselves.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, runtime_checkable

from parfocal.distribute.stopping import stop_requested
from parfocal.distribute.worker import Answer, WorkerPlan
from parfocal.processes import Process

MAX_TRIES = 3  # workers that may die over one item

logger = logging.getLogger(__name__)


class WorkerDiedError(Exception):
    """Workers die before they work; the message says how."""


@runtime_checkable
class Worker(Protocol):
    """A process somewhere that works on items, as many at a time as its plan says."""

    def start(self, item: str) -> None:
        """Hand an item to the worker."""

    def close(self) -> None:
        """End the worker at once."""


W = TypeVar("W", bound=Worker)


@runtime_checkable
class Workers(Protocol[W]):
    """Starts workers, and waits for them."""

    @property
    def count(self) -> int:
        """Number of workers to use."""

    def open(self, plan: WorkerPlan) -> AbstractContextManager[None]:
        """Prepare to start workers that follow a plan, for a block."""

    def start_worker(self, index: int) -> W:
        """Start the worker of an index below `count`; its first answer says that it is ready."""

    def wait(self, workers: Sequence[W]) -> list[tuple[W, Answer]]:
        """Wait until at least one of some busy workers has an answer; return all answers."""


@dataclass(frozen=True)
class Row:
    """What became of one item.

    Args:
        item: the item.
        value: what the function of the worker returned; None if workers died over it.
        died: how the last of `MAX_TRIES` workers died over the item; None if one answered.
    """

    item: str
    value: object
    died: str | None = None


def run_items(
    items: Iterable[str],
    plan: WorkerPlan,
    workers: Workers[W],
    *,
    release: Callable[[str, Process], None] = lambda item, process: None,
) -> Iterator[Row]:
    """Process items in workers, and yield a row as each item ends.

    Items are taken from the iterable as workers become free, so there may be any number. After
    `parfocal.distribute.stopping` asks for it, only the items that were started end.

    Args:
        items: names of the items, each once.
        plan: what each worker does.
        workers: starts the workers.
        release: called with an item and the process that died over it, before it is tried again.

    Raises:
        WorkerDiedError: workers die before they are ready.
        Exception: what building the function of a worker, or the function itself, raises.
    """
    pool = _Pool(workers, plan.in_flight, plan.queued, iter(items), release)
    with workers.open(plan):
        try:
            for index in range(workers.count):
                pool.start_worker(index)
            while pool.has_work():
                for worker, answer in workers.wait(pool.waiting):
                    yield from pool.handle(worker, answer)
        finally:
            for worker in pool.waiting:
                worker.close()


@dataclass
class _State:
    """What the pool keeps of a worker."""

    index: int
    process: Process | None = None  # until it is ready
    items: list[str] = field(default_factory=list)


@dataclass
class _Pool(Generic[W]):
    """The state of `run_items`; its size depends on the number of workers only."""

    workers: Workers[W]
    in_flight: int
    queued: int
    items: Iterator[str]
    release: Callable[[str, Process], None]
    again: deque[str] = field(default_factory=deque)
    tries: dict[str, int] = field(default_factory=dict)
    states: dict[W, _State] = field(default_factory=dict)
    early_deaths: int = 0

    @property
    def waiting(self) -> list[W]:
        """Workers that will answer: they have items, or are not ready yet."""
        return list(self.states)

    def start_worker(self, index: int) -> None:
        self.states[self.workers.start_worker(index)] = _State(index)

    def has_work(self) -> bool:
        """Return whether items are being processed, or left for workers that will be ready."""
        if not self.states:
            return False
        if any(state.items for state in self.states.values()):
            return True
        item = self._next_item()
        if item is not None:
            self.again.appendleft(item)
        return item is not None

    def handle(self, worker: W, answer: Answer) -> Iterator[Row]:
        """Handle an answer, keep the worker busy, and yield the rows of items that ended."""
        if answer.item is not None:  # every worker logs the same until it is ready
            for record in answer.records:
                logging.getLogger(record.name).handle(record)
        if answer.died is not None:
            yield from self._bury(worker, answer.died)
            return
        if answer.error is not None:
            raise answer.error
        state = self.states[worker]
        if answer.item is None:
            assert isinstance(answer.value, Process)
            state.process = answer.value
        else:
            state.items.remove(answer.item)
            self.tries.pop(answer.item, None)
        self._feed(worker, state)
        if answer.item is not None:
            yield Row(answer.item, answer.value)

    def _next_item(self) -> str | None:
        if stop_requested():
            return None
        return self.again.popleft() if self.again else next(self.items, None)

    def _feed(self, worker: W, state: _State) -> None:
        """Hand items to a worker; end it if there are none."""
        while len(state.items) < self.in_flight + self.queued:
            item = self._next_item()
            if item is None:
                break
            state.items.append(item)
            worker.start(item)
        if not state.items:
            del self.states[worker]
            worker.close()

    def _bury(self, worker: W, reason: str) -> Iterator[Row]:
        """Replace a worker that died; yield the rows of its items that have no tries left."""
        state = self.states.pop(worker)
        worker.close()
        if state.process is None:
            self.early_deaths += 1
            if self.early_deaths >= MAX_TRIES:
                raise WorkerDiedError(
                    f"{MAX_TRIES} workers ended before they were ready ({reason}). Run the command "
                    "without workers to see why; each worker needs as much memory as that process."
                )
        self.start_worker(state.index)
        self.again.extend(state.items[self.in_flight :])  # they had not begun
        for item in state.items[: self.in_flight]:
            assert state.process is not None
            self.release(item, state.process)
            self.tries[item] = self.tries.get(item, 0) + 1
            if self.tries[item] < MAX_TRIES:
                logger.warning("%s: its worker ended (%s); trying again", item, reason)
                self.again.append(item)
                continue
            del self.tries[item]
            yield Row(
                item,
                None,
                f"{MAX_TRIES} workers died over it; {reason}. It may need more memory than there "
                "is: run the command without workers for it",
            )
