"""Train one model on several devices of this machine, with one process for each device.

The processes are described in `parfocal.train.ranks`. The process of the command does not train: it
holds the claim on the run folder, passes on what the first process logs, and ends all processes
when one fails, or at Ctrl-C.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import torch

from parfocal.distribute.processes import describe_exit
from parfocal.distribute.stopping import (
    StoppedEarly,
    raise_if_stopped,
    stop_on_signal,
    stop_requested,
)
from parfocal.distribute.worker import interrupt_on_sigterm, sendable
from parfocal.progress import draws_bars
from parfocal.slide.staging import Scratch, current_stage, stage_slides
from parfocal.threads import available_cores, chosen_threads, limit_threads, thread_count
from parfocal.train.folder import RunError, RunFolder
from parfocal.train.ranks import Ranks
from parfocal.train.slide_checks import CheckedSlide
from parfocal.train.summary import RunSummary
from parfocal.train.training_run import TrainingRun

POLL_S = 1.0  # how soon a request to stop is noticed
GRACE_S = 3.0  # for other processes to say why they failed, too
PATIENCE_S = 5.0  # for a process to end after SIGTERM

# Loggers of the checks, which the process of the command has already made and logged.
CHECKS = ("parfocal.train.checks", "parfocal.train.slide_checks")

logger = logging.getLogger(__name__)

_spawn = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork


@runtime_checkable
class HasRuns(Protocol):
    """A training that is prepared."""

    @property
    def runs(self) -> tuple[TrainingRun, ...]:
        """One run, or one for each fold."""


@dataclass(frozen=True)
class RankPlan:
    """What each process does. It is sent to the processes, so it must be picklable.

    Args:
        prepare: prepares the training, given `device` and `checked`.
        run: position of the run among those of the training.
        checked: results of checking the slides.
        count: number of processes.
        device: "cpu" or "cuda".
        threads: number of threads of each process.
        threads_are_chosen: whether a user has chosen that number.
        bars: whether the first process reports the slides of each epoch.
        level: level below which log records are dropped.
        scratch: where slides are copied; None to read them in place.
        store: file through which the processes find each other.
    """

    prepare: Callable[..., HasRuns]
    run: int
    checked: dict[str, CheckedSlide]
    count: int
    device: str
    threads: int
    threads_are_chosen: bool
    bars: bool
    level: int
    scratch: Scratch | None = None
    store: Path = field(default_factory=Path)

    def device_of(self, rank: int) -> str:
        """Return the device of a process."""
        return f"cuda:{rank}" if self.device == "cuda" else self.device


@dataclass(frozen=True)
class RankEnd:
    """How a process ended.

    Args:
        summary: summary of the run, from the first process.
        error: what was raised, if anything.
        stopped: message, if the process stopped between two epochs because it was asked to.
        died: how it was ended, if it sent nothing.
    """

    summary: RunSummary | None = None
    error: Exception | None = None
    stopped: str | None = None
    died: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the training cannot go on."""
        return self.error is not None or self.stopped is not None or self.died is not None

    @property
    def urgency(self) -> int:
        """Rank of the reason among those of several processes: the lowest is the cause.

        A process whose partner has died raises an error of torch.
        """
        if self.error is not None:
            return 0 if type(self.error).__module__.startswith("parfocal") else 3
        return 1 if self.died is not None else 2


def refuse_missing_devices(count: int, device: torch.device) -> None:
    """Refuse more devices than this machine has.

    Args:
        count: number of devices.
        device: device of the command.

    Raises:
        RunError: there are fewer.
    """
    if count == 1:
        return
    if device.type == "cpu":
        cores = available_cores()
        if count > cores:
            raise RunError(
                f"train.devices={count}: on a CPU, each device is a process with a core of its "
                f"own, and this process may use {cores}; set it to {cores}, or train on GPUs."
            )
        return
    if device.index is not None:
        raise RunError(
            f"train.devices={count}: --device {device} is one device; use --device cuda for the "
            "first ones, and CUDA_VISIBLE_DEVICES to choose them."
        )
    found = torch.cuda.device_count()
    if count > found:
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(found))
        raise RunError(
            f"train.devices={count}: this machine has {found} CUDA "
            f"{'device' if found == 1 else 'devices'} ({names}); set it to {found}."
        )


def train_on_devices(
    run: TrainingRun, position: int, prepare: Callable[..., HasRuns]
) -> RunSummary:
    """Train a model in several processes, each on a device of its own.

    Args:
        run: the run, which is checked.
        position: position of the run among those of the training.
        prepare: prepares the training in another process.

    Raises:
        RunError: a process failed.
        StoppedEarly: the command was asked to stop.
        KeyboardInterrupt: Ctrl-C was pressed; continue with `resume`.
    """
    count, device = run.settings.train.devices, run.device.type
    chosen, stage = chosen_threads(), current_stage()
    threads = chosen or max(1, thread_count(available_cores()) // count)
    plan = RankPlan(
        prepare,
        position,
        run.checks.results,
        count,
        device,
        threads,
        chosen is not None,
        run.progress and draws_bars(),
        logging.getLogger("parfocal").getEffectiveLevel(),
        None if stage is None else stage.scratch,
    )
    logger.info(
        "%s: training on %d %s, each with %d %s",
        *(run.folder.path, count, "GPUs" if device == "cuda" else "processes of the CPU"),
        *(threads, "thread" if threads == 1 else "threads"),
    )
    with TemporaryDirectory(prefix="parfocal-") as folder:
        plan = replace(plan, store=Path(folder) / "ranks")
        processes = [_RankProcess(plan, rank) for rank in range(count)]
        try:
            return _watch(processes, run.folder)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{run.folder.path}: stopped; continue with --resume."
            ) from None
        finally:
            _end(processes)


class _RankProcess:
    """A process that trains, as seen from the process of the command."""

    def __init__(self, plan: RankPlan, rank: int) -> None:
        self.rank, self.device = rank, plan.device_of(rank)
        self.connection, other = _spawn.Pipe()
        self.process = _spawn.Process(target=_serve, args=(other, plan, rank), daemon=True)
        self.process.start()
        other.close()  # so that the connection ends when the process does

    def receive(self) -> RankEnd | None:
        """Handle a message; return how the process ended, if it has."""
        try:
            message: Any = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(PATIENCE_S)
            return RankEnd(died=describe_exit(self.process.exitcode))
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
            return None
        assert isinstance(message, RankEnd)
        return message


def _watch(processes: Sequence[_RankProcess], folder: RunFolder) -> RunSummary:
    """Wait for the processes; return the summary of the first one, or raise why one failed."""
    ended: dict[int, RankEnd] = {}
    is_stopping = False
    while 0 not in ended:
        if stop_requested() and not is_stopping:
            is_stopping = True
            _signal(processes, "SIGUSR1")
        if not _receive(processes, ended, POLL_S):
            folder.check_claim()
        if any(end.failed for end in ended.values()):
            while len(ended) < len(processes) and _receive(processes, ended, GRACE_S):
                pass
            break
    failed = {rank: end for rank, end in ended.items() if end.failed}
    if not failed:
        summary = ended[0].summary
        assert summary is not None
        return summary
    rank = min(failed, key=lambda each: failed[each].urgency)
    end = failed[rank]
    if end.stopped is not None:
        raise StoppedEarly(end.stopped)
    where = f"{folder.path}: process {rank + 1} of {len(processes)} ({processes[rank].device})"
    if end.died is not None and is_stopping:  # the signal came before it was ready for it
        raise_if_stopped(f"{folder.path} was not yet in training")
    if end.died is not None:
        raise RunError(
            f"{where}: {end.died}. It may need more memory than is available; continue with "
            "--resume."
        )
    assert end.error is not None
    raise end.error


def _receive(
    processes: Sequence[_RankProcess], ended: dict[int, RankEnd], timeout_s: float
) -> bool:
    """Handle the messages of processes that have not ended; return whether there were any."""
    by_connection: dict[Any, _RankProcess] = {
        each.connection: each for each in processes if each.rank not in ended
    }
    ready = wait(list(by_connection), timeout_s)
    for connection in ready:
        process = by_connection[connection]
        end = process.receive()
        if end is not None:
            ended[process.rank] = end
    return bool(ready)


def _signal(processes: Sequence[_RankProcess], name: str) -> None:
    number = getattr(signal, name, None)
    for each in processes:
        if number is not None and each.process.pid is not None and each.process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(each.process.pid, number)


def _end(processes: Sequence[_RankProcess]) -> None:
    """End all processes; one that waits for another does not notice SIGTERM, and is killed."""
    for each in processes:
        each.process.terminate()
    for each in processes:
        each.process.join(PATIENCE_S)
        if each.process.is_alive():
            each.process.kill()
        each.process.join()
        each.connection.close()


def _serve(connection: Connection, plan: RankPlan, rank: int) -> None:
    """Train in this process, and send how that ended."""
    interrupt_on_sigterm()
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    limit_threads(plan.threads, is_chosen=plan.threads_are_chosen)
    package = logging.getLogger("parfocal")
    package.propagate = False
    for each in (package, *map(logging.getLogger, CHECKS)):
        each.setLevel(logging.CRITICAL)
    if rank == 0:
        package.addHandler(_ConnectionHandler(connection))
    with suppress(KeyboardInterrupt, BrokenPipeError), stop_on_signal():
        try:
            end = RankEnd(_train(plan, rank))
        except StoppedEarly as stopped:
            end = RankEnd(stopped=str(stopped))
        except Exception as error:
            end = RankEnd(error=sendable(error))
        connection.send(end)
    # Not an ordinary end: threads of the process group may wait for other processes.
    os._exit(0)


def _train(plan: RankPlan, rank: int) -> RunSummary | None:
    device = plan.device_of(rank)
    if plan.scratch is not None:
        stage_slides(plan.scratch)
    prepared = plan.prepare(device=device, checked=plan.checked)
    ranks = Ranks(rank, plan.count)
    ranks.connect(plan.store, torch.device(device))
    if rank == 0:
        logging.getLogger("parfocal").setLevel(plan.level)
    run = replace(prepared.runs[plan.run], ranks=ranks, progress=plan.bars)
    if rank > 0:
        run.help_train()
        return None
    return run.train(resume=True)


def _end_with_parent(connection: Connection) -> None:
    """End this process when its parent does, even if it waits for another one."""
    with suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)


class _ConnectionHandler(QueueHandler):
    """Sends log records to the parent process."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)  # type: ignore[arg-type]
        self._connection = connection

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send a record."""
        with suppress(OSError):  # the parent has ended, and so will this process
            self._connection.send(record)
