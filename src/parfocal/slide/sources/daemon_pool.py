"""Threads that do not keep the program from ending, unlike those of concurrent.futures."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue


class DaemonPool:
    """Runs calls in a few threads, in the order in which they are submitted.

    Args:
        threads: largest number of threads; each is started when it is needed.
    """

    def __init__(self, threads: int) -> None:
        self._limit, self._started, self._idle = threads, 0, 0
        self._lock = threading.Lock()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(self, call: Callable[[], None]) -> None:
        """Run a call, which must not raise, in one of the threads."""
        self._calls.put(call)
        with self._lock:
            if self._started < self._limit and self._calls.qsize() > self._idle:
                self._started += 1
                threading.Thread(target=self._work, daemon=True, name="remote-read").start()

    def close(self) -> None:
        """Drop the calls that have not started, and end each thread after its current call."""
        try:
            while True:
                self._calls.get_nowait()
        except Empty:
            pass
        for _ in range(self._limit):
            self._calls.put(None)

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            call = self._calls.get()
            with self._lock:
                self._idle -= 1
            if call is None:
                return
            call()
