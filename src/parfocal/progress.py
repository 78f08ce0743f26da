"""Progress over the slides of a command: one bar in a terminal, one log line per slide elsewhere.

A loop over slides reports to `Progress`, which only logs. The command line installs
`ProgressHandler`, which turns these log records into a bar when standard error is a terminal.
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from parfocal.printable import printable

logger = logging.getLogger(__name__)

BAR_WIDTH = 20  # characters, in a terminal that is wide enough
MIN_BAR_WIDTH = 5
ERASE_LINE = "\r\x1b[K"


@dataclass(frozen=True)
class ProgressState:
    """How far a loop has come, attached to its log records as `record.progress`.

    Args:
        task: what is done, as "extracting".
        unit: what is counted, in the plural.
        total: number of items.
        done: number of items finished, including skipped and failed ones.
        failed: number of items that failed.
        per_minute: items finished per minute, skipped ones excluded; None before the first.
        note: what to print above the bar; empty for nothing.
        keep: whether the bar stays on the screen at the end.
    """

    task: str
    unit: str
    total: int
    done: int
    failed: int
    per_minute: float | None
    note: str = ""
    keep: bool = True

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the end; None before the first item."""
        if not self.per_minute:
            return None
        return 60 * (self.total - self.done) / self.per_minute


class Progress:
    """Count the finished items of a loop and log a line for each.

    A loop over a single item logs nothing.

    Args:
        task: what is done, as "extracting".
        total: number of items.
        unit: what is counted, in the plural.
        keep: whether the bar stays on the screen at the end.
        clock: returns seconds.
    """

    def __init__(
        self,
        task: str,
        total: int,
        *,
        unit: str = "slides",
        keep: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task, self._total, self._unit, self._clock = task, total, unit, clock
        self._keep = keep
        self._start = clock()
        self._done = self._skipped = self._failed = 0
        if total > 1:
            state = {"progress": self._state()}
            logger.info("%s: %d %s", task, total, unit, extra=state)

    def advance(self, name: str, *, note: str = "", skipped: bool = False, count: int = 1) -> None:
        """Count finished items, usually one.

        Args:
            name: name of the item.
            note: what was done with it, for the log line.
            skipped: whether there was nothing to do; the rate then leaves it out.
            count: number of items.
        """
        self._done += count
        self._skipped += count if skipped else 0
        text = printable(f"{name}: {note}" if note else name)
        if self._total > 1:
            state = {"progress": self._state()}
            logger.info("%d/%d %s", self._done, self._total, text, extra=state)

    def fail(self, name: str) -> None:
        """Count one item that failed; its reason belongs into the summary at the end."""
        name = printable(name)
        self._done += 1
        self._failed += 1
        if self._total > 1:
            state = {"progress": self._state(f"{name} failed")}
            logger.warning("%d/%d %s failed", self._done, self._total, name, extra=state)

    def _state(self, note: str = "") -> ProgressState:
        minutes, worked = (self._clock() - self._start) / 60, self._done - self._skipped
        per_minute = worked / minutes if worked and minutes > 0 else None
        return ProgressState(
            *(self._task, self._unit, self._total, self._done, self._failed, per_minute),
            note,
            self._keep,
        )


class ProgressHandler(logging.Handler):
    """Write log records to standard error, and progress as one bar if that is a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = ""  # the bar on the last line of the terminal, if any

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record: a new bar, or a line above the bar that is there."""
        state = getattr(record, "progress", None)
        try:
            if not sys.stderr.isatty():
                sys.stderr.write(f"{self.format(record)}\n")
            elif isinstance(state, ProgressState):
                self._draw(state)
            else:
                self._write_above(self.format(record))
            sys.stderr.flush()
        except Exception:
            self.handleError(record)

    def erase_bar(self) -> str:
        """Remove the bar from the terminal until the next record; return its text."""
        bar, self._bar = self._bar, ""
        if bar:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()
        return bar

    def restore_bar(self, bar: str) -> None:
        """Draw an erased bar again, at the beginning of a line."""
        if bar:
            sys.stderr.write(bar)
            sys.stderr.flush()
            self._bar = bar

    def _draw(self, state: ProgressState) -> None:
        if state.note:
            self._write_above(state.note)
        bar = bar_line(state, shutil.get_terminal_size().columns)
        ended = state.done >= state.total
        if ended and not state.keep:
            self.erase_bar()
            return
        sys.stderr.write(f"{ERASE_LINE if self._bar else ''}{bar}{chr(10) if ended else ''}")
        self._bar = "" if ended else bar

    def _write_above(self, text: str) -> None:
        sys.stderr.write(f"{ERASE_LINE}{text}\n{self._bar}" if self._bar else f"{text}\n")


@contextmanager
def bars_erased() -> Iterator[None]:
    """Remove the bar while a block prints something else, and draw it again below that."""
    handlers = [each for each in logging.getLogger().handlers if isinstance(each, ProgressHandler)]
    bars = [handler.erase_bar() for handler in handlers]
    yield
    sys.stdout.flush()  # the text comes first, also where both streams are one terminal
    for handler, bar in zip(handlers, bars, strict=True):
        handler.restore_bar(bar)


def draws_bars() -> bool:
    """Return whether progress is drawn as a bar: in a terminal, by the command line."""
    handlers = logging.getLogger().handlers
    return sys.stderr.isatty() and any(isinstance(each, ProgressHandler) for each in handlers)


def erase_bars() -> None:
    """Remove the bar from the terminal, before something else is printed."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ProgressHandler):
            handler.erase_bar()


def bar_line(state: ProgressState, columns: int) -> str:
    """Return the bar as one line that is shorter than the terminal is wide.

    Args:
        state: how far the loop has come.
        columns: width of the terminal.
    """
    count = f"{state.task} {state.done}/{state.total}"
    failed = f"{state.failed} failed" if state.failed else ""
    left, rate = "", ""
    if state.seconds_left is not None:
        left = f"{_clock_time(state.seconds_left)} left" if state.done < state.total else ""
        per_minute = state.per_minute or 0.0
        speed = f"{per_minute:,.0f}" if per_minute >= 100 else f"{per_minute:.3g}"
        rate = f"{speed} {state.unit}/min"
    texts: list[str] = []
    for chosen in ((failed, left, rate), (left, rate), (left,), ()):
        texts = [text for text in chosen if text]
        if len("  ".join((count, *texts))) < columns:
            break
    room = columns - 1 - len("  ".join((count, "[]", *texts)))
    width = min(BAR_WIDTH, room)
    if width < MIN_BAR_WIDTH:
        return "  ".join((count, *texts))
    filled = width * state.done // max(state.total, 1)
    return "  ".join((count, f"[{'#' * filled}{'.' * (width - filled)}]", *texts))


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
