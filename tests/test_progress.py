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
    bars_erased,
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


def test_the_bar_is_drawn_again_below_other_text(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch
):
    """Otherwise there is no bar while the next slide is worked on."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    log.addHandler(ProgressHandler())
    progress = Progress("predicting", 2)
    with bars_erased():
        stream.write("a result\n")
    bar = "predicting 0/2  [....................]"
    assert stream.getvalue() == f"{bar}{ERASE_LINE}a result\n{bar}"
    progress.advance("a")
    assert stream.getvalue().count(ERASE_LINE) == 2


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


def test_a_narrow_terminal_shortens_the_bar_and_then_drops_it():
    state = ProgressState("predicting", "slides", 1200, 1000, 12, 1.234)
    texts = "12 failed  2:42:04 left  1.23 slides/min"
    assert bar_line(state, 120) == f"predicting 1000/1200  [{'#' * 16}....]  {texts}"
    assert bar_line(state, 80) == f"predicting 1000/1200  [{'#' * 10}...]  {texts}"
    assert bar_line(state, 66) == f"predicting 1000/1200  {texts}"


def test_slides_time_left_and_rate_are_the_last_to_go():
    state = ProgressState("predicting", "slides", 1200, 1000, 12, 1.234)
    assert bar_line(state, 60) == "predicting 1000/1200  2:42:04 left  1.23 slides/min"
    assert bar_line(state, 40) == "predicting 1000/1200  2:42:04 left"


def test_a_bar_that_is_not_kept_disappears(log: logging.Logger, monkeypatch: pytest.MonkeyPatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    log.addHandler(ProgressHandler())
    progress = Progress("epoch 1 of 2", 5, keep=False)
    progress.advance("trained", count=3)
    progress.advance("validated", count=2)
    log.warning("its numbers")
    assert "epoch 1 of 2 3/5" in stream.getvalue()
    assert stream.getvalue().endswith(f"{ERASE_LINE}its numbers\n")


def test_a_high_rate_is_a_whole_number():
    assert "1,234 slides/min" in bar_line(ProgressState("x", "slides", 9, 1, 0, 1234.5), 80)


def test_hours_are_shown():
    state = ProgressState("predicting", "slides", 121, 1, 0, 1.0)
    assert "2:00:00 left" in bar_line(state, 120)
