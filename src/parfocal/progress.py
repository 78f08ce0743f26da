"""Progress over the slides of a command: one bar in a terminal, one log line per slide elsewhere.

A loop over slides reports to `Progress`, which only logs. The command line installs
`ProgressHandler`, which turns these log records into a bar when standard error is a terminal.
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

BAR_WIDTH = 20  # characters
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
    """

    task: str
    unit: str
    total: int
    done: int
    failed: int
    per_minute: float | None
    note: str = ""

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
        clock: returns seconds.
    """

    def __init__(
        self,
        task: str,
        total: int,
        *,
        unit: str = "slides",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task, self._total, self._unit, self._clock = task, total, unit, clock
        self._start = clock()
        self._done = self._skipped = self._failed = 0
        if total > 1:
            state = {"progress": self._state()}
            logger.info("%s: %d %s", task, total, unit, extra=state)

    def advance(self, name: str, *, note: str = "", skipped: bool = False) -> None:
        """Count one finished item.

        Args:
            name: name of the item.
            note: what was done with it, for the log line.
            skipped: whether there was nothing to do; the rate then leaves it out.
        """
        self._done += 1
        self._skipped += skipped
        text = f"{name}: {note}" if note else name
        if self._total > 1:
            state = {"progress": self._state()}
            logger.info("%d/%d %s", self._done, self._total, text, extra=state)

    def fail(self, name: str) -> None:
        """Count one item that failed; its reason belongs into the summary at the end."""
        self._done += 1
        self._failed += 1
        if self._total > 1:
            state = {"progress": self._state(f"{name} failed")}
            logger.warning("%d/%d %s failed", self._done, self._total, name, extra=state)

    def _state(self, note: str = "") -> ProgressState:
        minutes, worked = (self._clock() - self._start) / 60, self._done - self._skipped
        per_minute = worked / minutes if worked and minutes > 0 else None
        return ProgressState(
            self._task, self._unit, self._total, self._done, self._failed, per_minute, note
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

    def erase_bar(self) -> None:
        """Remove the bar from the terminal until the next record, so that other text fits in."""
        if self._bar:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()
            self._bar = ""

    def _draw(self, state: ProgressState) -> None:
        if state.note:
            self._write_above(state.note)
        bar = bar_line(state, shutil.get_terminal_size().columns)
        ended = state.done >= state.total
        sys.stderr.write(f"{ERASE_LINE if self._bar else ''}{bar}{chr(10) if ended else ''}")
        self._bar = "" if ended else bar

    def _write_above(self, text: str) -> None:
        sys.stderr.write(f"{ERASE_LINE}{text}\n{self._bar}" if self._bar else f"{text}\n")


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
    filled = BAR_WIDTH * state.done // max(state.total, 1)
    parts = [
        f"{state.task} {state.done}/{state.total}",
        f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}]",
    ]
    if state.failed:
        parts.append(f"{state.failed} failed")
    if state.seconds_left is not None:
        if state.done < state.total:
            parts.append(f"{_clock_time(state.seconds_left)} left")
        parts.append(f"{state.per_minute:.3g} {state.unit}/min")
    while len(parts) > 1 and len("  ".join(parts)) >= columns:
        parts.pop()
    return "  ".join(parts)


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
