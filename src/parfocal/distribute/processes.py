"""Workers that are processes of this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from parfocal.distribute.stopping import stop_on_signal, stop_requested
from parfocal.distribute.worker import Answer, PlanRunner, WorkerPlan, interrupt_on_sigterm

STOP_POLL_S = 1.0  # how soon a request to stop is noticed
PATIENCE_S = 10.0  # for a process to end after SIGTERM

_spawn = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork


class ProcessWorkers:
    """Starts workers as processes of this machine; see `Workers`.

    Args:
        count: number of processes.
        gpus: CUDA devices to share out among them, as in CUDA_VISIBLE_DEVICES; none to leave the
            devices as they are.
    """

    def __init__(self, count: int, *, gpus: Sequence[str] = ()) -> None:
        self.count, self._gpus = count, gpus

    @contextmanager
    def open(self, plan: WorkerPlan) -> Iterator[None]:
        """Prepare to start workers that follow a plan, for a block."""
        with plan.shared_mark() as mark:
            self._plan, self._mark = plan, mark
            yield

    def start_worker(self, index: int) -> "ProcessWorker":
        """Start a worker."""
        gpu = self._gpus[index % len(self._gpus)] if self._gpus else None
        return ProcessWorker(self._plan, self._mark, gpu)

    def wait(self, workers: Sequence["ProcessWorker"]) -> list[tuple["ProcessWorker", Answer]]:
        """Wait for answers of some workers."""
        by_connection = {worker.connection: worker for worker in workers}
        ready: list[Any] = []
        while not ready:
            if stop_requested():
                for worker in workers:
                    worker.stop()
            ready = wait(list(by_connection), STOP_POLL_S)
        return [(by_connection[each], by_connection[each].receive()) for each in ready]


class ProcessWorker:
    """A worker process; see `Worker`.

    Args:
        plan: what it does.
        mark: file that it must see.
        gpu: the CUDA device that it sees; None to leave that as it is.
    """

    def __init__(self, plan: WorkerPlan, mark: Path | None, gpu: str | None) -> None:
        self.connection, other = _spawn.Pipe()
        self._process = _spawn.Process(target=_serve, args=(other, plan, mark, gpu))
        self._process.start()
        self._is_stopping = False
        self._owed = 1  # answers that are to come, the first of which says that it is ready
        other.close()  # so that the connection ends when the process does

    def start(self, item: str) -> None:
        """Hand an item to the worker."""
        self._owed += 1
        with suppress(OSError):  # it has died, which `receive` finds
            self.connection.send(item)

    def receive(self) -> Answer:
        """Return the next answer, or how the process ended."""
        self._owed -= 1
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self._process.join(PATIENCE_S)
            return Answer(died=describe_exit(self._process.exitcode))
        assert isinstance(answer, Answer)
        return answer

    def stop(self) -> None:
        """Ask the process to end a training at its next epoch; slides are finished anyway."""
        if not self._is_stopping and self._process.pid is not None and hasattr(signal, "SIGUSR1"):
            self._is_stopping = True
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGUSR1)

    def close(self) -> None:
        """End the process: at once if it works on an item, else it ends by itself."""
        self.connection.close()
        if self._owed == 0:
            self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.terminate()
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _serve(connection: Connection, plan: WorkerPlan, mark: Path | None, gpu: str | None) -> None:
    """Answer items until the driver closes the connection, or ends."""
    interrupt_on_sigterm()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # torch reads it when it first uses a device
    with suppress(EOFError, OSError, KeyboardInterrupt), stop_on_signal():
        runner = PlanRunner(plan, mark)
        connection.send(runner.prepare())
        try:
            if plan.in_flight == 1 and not plan.queued:
                while True:
                    connection.send(runner.process(connection.recv()))
            _serve_in_threads(connection, runner, plan.in_flight)
        except (EOFError, OSError):  # the driver has no more items
            runner.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left to clean up


def _serve_in_threads(connection: Connection, runner: PlanRunner, count: int) -> None:
    """Answer several items at a time; each answer is sent whole."""
    sending = threading.Lock()

    def answer(item: str) -> None:
        done = runner.process(item)
        with sending, suppress(OSError):
            connection.send(done)

    with ThreadPoolExecutor(count) as threads:
        while True:
            item = connection.recv()
            runner.announce(item)
            threads.submit(answer, item)


def describe_exit(code: int | None) -> str:
    """Describe how a process ended.

    Args:
        code: its exit code, which is negative after a signal; None if it is unknown.
    """
    if code is None or code >= 0:
        return f"its process ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was killed by {name}"
