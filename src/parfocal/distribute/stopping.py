"""Stop between two slides or epochs when a job scheduler announces the end of a job.

Schedulers send SIGUSR1 some minutes before a job's time limit. A command then finishes the slides
that it works on, or the epoch, and ends with `EXIT_CODE`, so that the job can be queued again.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75  # that of sendmail and others for "try again later"

_requested = threading.Event()


class StoppedEarly(BaseException):
    """The command has stopped before its end, as it was asked to; the same command resumes."""


def stop_requested() -> bool:
    """Return whether this process was asked to stop between two slides or epochs."""
    return _requested.is_set()


def raise_if_stopped(finished: str, *, requested: bool = False) -> None:
    """Raise if this process was asked to stop.

    Args:
        finished: what has been finished, for the message.
        requested: whether another process that works with this one was asked to.

    Raises:
        StoppedEarly: it was.
    """
    if requested or stop_requested():
        raise StoppedEarly(
            f"stopped before the time limit: {finished}; run the same command again to resume."
        )


@contextmanager
def stop_on_signal() -> Iterator[None]:
    """Let SIGUSR1 ask this process to stop early, for a block."""
    number = getattr(signal, "SIGUSR1", None)  # Windows has none
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(received: int, frame: FrameType | None) -> None:
        _requested.set()

    previous = signal.signal(number, request)
    try:
        yield
    finally:
        signal.signal(number, previous)
        _requested.clear()
