import errno
import logging
from pathlib import Path

import pytest

from parfocal.printable import printable
from parfocal.slide import SlideError
from parfocal.slide.failure import catch_failure, describe_failure, is_disk_full
from parfocal.slide.identity import slide_id


def fail_with(error: BaseException) -> str | None:
    with catch_failure("one.svs") as attempt:
        raise error
    return attempt.reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SlideError("one.svs: the file is empty."), "one.svs: the file is empty."),
        (KeyError("levels"), "unexpected KeyError: 'levels'"),
        (OSError(errno.EIO, "Input/output error", "one.svs"), "one.svs: Input/output error; check"),
        (MemoryError(), "there is not enough memory for this slide"),
        (RecursionError("too deep"), "unexpected RecursionError: too deep"),
        (SlideError("two\nlines and caf\udce9"), "two lines and caf%E9"),
    ],
)
def test_any_error_of_a_slide_is_its_reason(error: Exception, reason: str):
    found = fail_with(error)
    assert found is not None
    assert found.startswith(reason)


def test_a_slide_that_works_has_no_reason():
    with catch_failure("one.svs") as attempt:
        pass
    assert attempt.reason is None


def test_a_long_reason_is_cut_at_500_characters():
    reason = describe_failure(SlideError("long " * 1000))
    assert len(reason) == 500
    assert reason.endswith(" ...")


def test_an_interrupt_that_a_compiled_call_turned_into_an_error_is_not_caught():
    error = SystemError("a function returned a result with an exception set")
    error.__cause__ = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fail_with(error)


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(1)])
def test_signals_are_not_caught(signal: BaseException):
    with pytest.raises(type(signal)):
        fail_with(signal)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("HDF5: (errno = 28, error message = 'No space left on device')"),
    ],
)
def test_a_full_disk_is_not_the_failure_of_a_slide(error: Exception):
    assert is_disk_full(error)
    with pytest.raises(type(error)):
        fail_with(error)
    wrapped = SlideError("the picture could not be written")
    wrapped.__cause__ = error
    with pytest.raises(SlideError):
        fail_with(wrapped)


def test_the_traceback_is_in_the_log(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG, logger="parfocal"):
        fail_with(ZeroDivisionError("a damaged field"))
        fail_with(SlideError("the file is empty"))
    foreign, own = caplog.records
    assert (foreign.levelname, own.levelname) == ("WARNING", "DEBUG")
    assert "Traceback" in caplog.text
    assert "one.svs: unexpected ZeroDivisionError: a damaged field" in caplog.text


def test_an_id_is_printable_and_never_raises(tmp_path: Path):
    assert slide_id("caf\udce9.svs") == "caf%E9"
    assert slide_id(tmp_path / ("a" * 300 + ".svs")) == "a" * 300
    assert slide_id("line\nbreak\x1b[31m.tif") == "line%0Abreak%1B[31m"
    printable(slide_id("\ud800.svs")).encode()
