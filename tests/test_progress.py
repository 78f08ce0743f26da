import io
import logging
import sys
from collections.abc import Iterator

import pytest

from parfocal.progress import (
    ERASE_LINE,
    Progress,
    ProgressHandler,
    ProgressState,
    bar_line,
    erase_bars,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    root, logger = logging.getLogger(), logging.getLogger("parfocal.progress")
    before, level = list(root.handlers), logger.level
    logger.setLevel(logging.INFO)
    yield root
    root.handlers[:] = before
    logger.setLevel(level)


def run(handler: ProgressHandler, log: logging.Logger) -> None:
    log.addHandler(handler)
    seconds = iter([0.0, 0.0, 30.0, 60.0, 90.0])
    progress = Progress("extracting", 3, clock=lambda: next(seconds))
    progress.advance("a", note="extracted")
    progress.fail("b")
    progress.advance("c", note="has its features already", skipped=True)


def test_without_a_terminal_every_slide_has_a_line(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch
):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    run(ProgressHandler(), log)
    assert stream.getvalue().splitlines() == [
        "extracting: 3 slides",
        "1/3 a: extracted",
        "2/3 b failed",
        "3/3 c: has its features already",
    ]


def test_in_a_terminal_one_bar_is_redrawn_with_rate_and_time_left(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch
):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    run(ProgressHandler(), log)
    drawn = stream.getvalue().split(ERASE_LINE)
    assert drawn[0] == "extracting 0/3  [....................]"
    assert drawn[1] == "extracting 1/3  [######..............]  1:00 left  2 slides/min"
    assert drawn[2].startswith("b failed\n")
    assert drawn[3] == "extracting 2/3  [#############.......]  1 failed  0:30 left  2 slides/min"
    # The skipped slide does not count for the rate.
    assert drawn[4] == "extracting 3/3  [####################]  1 failed  1.33 slides/min\n"
    assert len(drawn) == 5


def test_a_message_in_between_stands_above_the_bar(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch
):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    log.addHandler(ProgressHandler())
    Progress("evaluating", 2)
    log.warning("a note")
    bar = "evaluating 0/2  [....................]"
    assert stream.getvalue() == f"{bar}{ERASE_LINE}a note\n{bar}"


def test_the_bar_is_erased_before_other_text(log: logging.Logger, monkeypatch: pytest.MonkeyPatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    log.addHandler(ProgressHandler())
    Progress("evaluating", 2)
    erase_bars()
    erase_bars()
    assert stream.getvalue() == f"evaluating 0/2  [....................]{ERASE_LINE}"


def test_a_single_slide_needs_no_progress(log: logging.Logger, monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.addHandler(ProgressHandler())
    progress = Progress("predicting", 1)
    progress.advance("a")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120])
def test_a_bar_is_never_cut(columns: int):
    state = ProgressState("predicting", "slides", 1200, 1000, 12, 1.234)
    line = bar_line(state, columns)
    assert len(line) < max(columns, len("predicting 1000/1200") + 1)


def test_a_narrow_terminal_drops_the_rate_first():
    state = ProgressState("predicting", "slides", 1200, 1000, 12, 1.234)
    shorter = "predicting 1000/1200  [################....]  12 failed  2:42:04 left"
    assert bar_line(state, 80) == shorter
    assert bar_line(state, 120) == f"{shorter}  1.23 slides/min"


def test_hours_are_shown():
    state = ProgressState("predicting", "slides", 121, 1, 0, 1.0)
    assert "2:00:00 left" in bar_line(state, 120)
