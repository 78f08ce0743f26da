"""What a worker process does: check that it fits the driver, build a function, answer items."""

import logging
import pickle
import platform
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from logging.handlers import QueueHandler
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Protocol, runtime_checkable

from parfocal.distribute.stopping import StoppedEarly
from parfocal.files import part_path
from parfocal.processes import Process, this_process
from parfocal.slide.staging import Scratch, stage_slides
from parfocal.threads import limit_threads

PACKAGES = ("parfocal", "torch", "numpy")  # whose versions must be equal everywhere

Function = Callable[[str], object]


@runtime_checkable
class Announced(Protocol):
    """A function of a worker that prepares for items."""

    def announce(self, item: str) -> None:
        """Prepare for an item that will be processed soon."""


@runtime_checkable
class Closing(Protocol):
    """A function of a worker that has to be ended."""

    def close(self) -> None:
        """End the function, after the last item."""


class WorkerError(Exception):
    """A worker cannot do its work, or the work raised an error that cannot be sent as it is."""


@dataclass(frozen=True)
class Answer:
    """What a worker sends back.

    Args:
        item: the item; None in the first answer, which says that the worker is ready.
        value: what the function returned; in the first answer, the process of the worker.
        error: what it raised, if anything.
        died: how the worker ended, if it did.
        records: what was logged on the way, except progress.
    """

    item: str | None = None
    value: object = None
    error: Exception | None = None
    died: str | None = None
    records: Sequence[logging.LogRecord] = ()


def _versions() -> dict[str, str]:
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


@dataclass(frozen=True)
class WorkerPlan:
    """What each worker does. It is sent to the workers, so it must be picklable.

    Args:
        build: returns the function that is called with each item; called once in each worker.
        shared: folder that driver and workers must share, if any.
        paths: files and folders that every worker must see.
        threads: number of threads of each worker; None for as many as there are cores.
        threads_are_chosen: whether a user has chosen that number; see `limit_threads`.
        in_flight: number of items that a worker processes at the same time, in threads.
        queued: number of further items that it has, whose slides it copies ahead.
        scratch: where it copies slides; None to read them in place.
        level: level below which log records are dropped.
        versions: versions of the packages of the driver.
        host: machine of the driver.
    """

    build: Callable[[], Function]
    shared: Path | None = None
    paths: tuple[Path, ...] = ()
    threads: int | None = None
    threads_are_chosen: bool = True
    in_flight: int = 1
    queued: int = 0
    scratch: Scratch | None = None
    level: int = field(default_factory=lambda: logging.getLogger("parfocal").getEffectiveLevel())
    versions: Mapping[str, str] = field(default_factory=_versions)
    host: str = field(default_factory=platform.node)

    @contextmanager
    def shared_mark(self) -> Iterator["Path | None"]:
        """Keep a file in the shared folder for a block, which workers have to see."""
        if self.shared is None:
            yield None
            return
        self.shared.mkdir(parents=True, exist_ok=True)
        mark = part_path(self.shared / "mark").absolute()
        mark.touch()
        try:
            yield mark
        finally:
            mark.unlink(missing_ok=True)


class PlanRunner:
    """Follows a plan in a worker process.

    Args:
        plan: the plan.
        mark: file that must be visible; None for none.
    """

    def __init__(self, plan: WorkerPlan, mark: Path | None) -> None:
        self._plan, self._mark = plan, mark
        self._function: Function | None = None
        self._queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
        package = logging.getLogger("parfocal")
        package.setLevel(plan.level)
        package.addHandler(QueueHandler(self._queue))  # makes records picklable
        package.propagate = False

    def prepare(self) -> Answer:
        """Check that this process fits the driver, and build the function."""
        return self._answer(None, self._prepare)

    def process(self, item: str) -> Answer:
        """Call the function with an item."""
        assert self._function is not None
        function = self._function
        return self._answer(item, lambda: function(item))

    def close(self) -> None:
        """Close the function, if it can be closed."""
        if isinstance(self._function, Closing):
            self._function.close()
        stage_slides(None)

    def announce(self, item: str) -> None:
        """Prepare for an item that will be processed soon."""
        if self._plan.queued and isinstance(self._function, Announced):
            self._function.announce(item)

    def _prepare(self) -> Process:
        self._check_versions()
        missing = [path for path in (self._mark, *self._plan.paths) if path and not path.exists()]
        if missing:
            shown = self._plan.shared if missing[0] == self._mark else missing[0]
            raise WorkerError(
                f"a worker on {platform.node()} cannot find {shown}. All machines need it under "
                "the same path, on a shared file system."
            )
        if self._plan.threads is not None:
            limit_threads(self._plan.threads, is_chosen=self._plan.threads_are_chosen)
        if self._plan.scratch is not None:
            stage_slides(self._plan.scratch)
        self._function = self._build()
        return this_process()

    def _build(self) -> Function:
        """Build the function; on another machine, an error says which."""
        try:
            return self._plan.build()
        except Exception as error:
            if platform.node() == self._plan.host:
                raise
            raise WorkerError(f"a worker on {platform.node()}: {sendable(error)}") from error

    def _check_versions(self) -> None:
        here = _versions()
        for package, wanted in self._plan.versions.items():
            found = here.get(package, "missing")
            if found != wanted:
                raise WorkerError(
                    f"a worker on {platform.node()} has {package} {found}, but this process has "
                    f"{wanted}. Install the same versions on all machines."
                )

    def _answer(self, item: str | None, call: Callable[[], object]) -> Answer:
        value: object = None
        error: Exception | None = None
        try:
            value = call()
        except StoppedEarly:
            value = None  # the item has not ended
        except Exception as raised:
            error = sendable(raised)
        records = []
        while True:
            try:
                record = self._queue.get_nowait()
            except Empty:
                break
            if not hasattr(record, "progress"):  # the driver has a bar of its own
                records.append(record)
        return Answer(item, value, error, records=tuple(records))


def sendable(error: Exception) -> Exception:
    """Return an error that another process can load."""
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return error
    except Exception:  # what pickling raises depends on the error
        pass
    if type(error).__module__.startswith("parfocal"):
        return WorkerError(str(error))
    return WorkerError(f"unexpected {type(error).__name__}: {error}")


def interrupt_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, and leave Ctrl-C to the driver."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, interrupt)
