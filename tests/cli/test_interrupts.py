"""Ctrl-C and other signals, unexpected errors and closed pipes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from command_result import CommandResult, assert_refused
from parfocal.cli import main
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict import folder as predict_module
from parfocal.slide.errors import SlideError
from small import TINY


def test_an_unexpected_error_is_a_line_and_with_debug_a_traceback(
    parfocal: Callable[..., CommandResult], run: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object, **__: object) -> Iterator[object]:
        raise TypeError("a\nbug")

    monkeypatch.setattr(predict_module, "predict_slides", broken)
    assert_refused(
        parfocal("predict", run, slide, "--out", "x"), "unexpected TypeError: a bug", "--debug"
    )
    monkeypatch.setattr(
        sys, "argv", ["parfocal", "predict", str(run), "s", "--out", "x", "--debug"]
    )
    with pytest.raises(TypeError):
        main()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_prints_one_line_and_keeps_finished_results(
    cohort: Path, tmp_path: Path, number: signal.Signals
):
    out = tmp_path / "run"
    # A shell starts what runs in the background with Ctrl-C ignored, nohup ignores SIGHUP, and
    # children inherit both.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from parfocal.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "train", str(cohort), "--out", str(out), *TINY]
    settings = ["--set", "slide.patch_size=64", "--set", "train.patience=10000"]
    settings += ["--epochs", "10000"]
    with subprocess.Popen(
        [*command, *settings], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while not (out / "metrics.csv").exists() and process.poll() is None:
                time.sleep(0.1)
            process.send_signal(number)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    resume = "to resume, run the same command with --resume"
    last = f"parfocal: interrupted; finished results are in {out}; {resume}."
    assert errors.splitlines()[-1] == last
    assert (out / "metrics.csv").exists()
    assert not (out / "checkpoint.json").exists()
    assert not (out / ".claim").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_any_command_as_ctrl_c_does(
    parfocal: Callable[..., CommandResult],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
):
    monkeypatch.setattr(
        "parfocal.explain.inspection.batch._inspect", lambda *_, **__: signal.raise_signal(number)
    )
    usual = signal.signal(number, signal.SIG_DFL)
    try:
        found = parfocal("inspect", "one.tif")
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, usual)
    assert found == CommandResult(130, "", "parfocal: interrupted; nothing was written.\n")


def test_nohup_is_respected(
    parfocal: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
):
    def hung_up(*_: object, **__: object) -> object:
        signal.raise_signal(signal.SIGHUP)
        raise SlideError("went on")

    monkeypatch.setattr("parfocal.explain.inspection.batch._inspect", hung_up)
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert "went on" in parfocal("inspect", "one.tif").err
    finally:
        signal.signal(signal.SIGHUP, usual)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (False, "nothing was written to {}."),
        (True, "finished results are in {}; to resume, run the same command."),
    ],
)
def test_ctrl_c_names_only_files_that_exist(
    parfocal: Callable[..., CommandResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    written: bool,
    text: str,
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "before.json").touch()
    os.utime(out / "before.json", (0, 0))

    def interrupted(*_: object, **__: object) -> Checkpoint:
        if written:
            (out / "one.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "load", interrupted)
    found = parfocal("predict", "run", "one.tif", "--out", out)
    assert found == CommandResult(130, "", f"parfocal: interrupted; {text.format(out)}\n")


@pytest.mark.slow
def test_ctrl_c_in_a_finalizer_is_not_lost(
    parfocal: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
):
    class Finalized:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def interrupted(*_: object, **__: object) -> object:
        Finalized()
        time.sleep(20)
        return None

    monkeypatch.setattr("parfocal.explain.inspection.batch._inspect", interrupted)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # may have been ignored
    try:
        assert parfocal("inspect", "one.tif").code == 130
    finally:
        signal.signal(signal.SIGINT, usual)


def test_ctrl_c_in_a_command_that_writes_nothing_says_so(
    parfocal: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("parfocal.explain.inspection.batch._inspect", interrupted)
    assert parfocal("inspect", "one.tif").err == "parfocal: interrupted; nothing was written.\n"


def test_a_closed_pipe_is_not_an_error(slide: Path):
    command = f"{sys.executable} -m parfocal.cli inspect {slide} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
