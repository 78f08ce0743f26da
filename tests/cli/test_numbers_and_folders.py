"""Every number that is given is finite, and every folder that is written to is checked first."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from command_result import CommandResult, assert_refused
from parfocal.cli.program import app

Parfocal = Callable[..., CommandResult]


def parameters() -> Iterator[tuple[str, Any]]:
    """Return each parameter of each command, with the words of the command."""

    def walk(words: tuple[str, ...], command: Any) -> Iterator[tuple[str, Any]]:
        for name, below in getattr(command, "commands", {}).items():
            yield from walk((*words, name), below)
        for parameter in command.params:
            yield " ".join(words), parameter

    yield from walk((), typer.main.get_command(app))


def takes_numbers(parameter: Any) -> bool:
    if hasattr(parameter, "type_descriptor"):  # of newer versions of typer
        return parameter.type_descriptor.annotation is float
    return parameter.type.name in ("float", "float range")


NUMBERS = sorted(
    f"{command} {parameter.opts[-1]}"
    for command, parameter in parameters()
    if takes_numbers(parameter)
)
FOLDERS = [
    (command, parameter)
    for command, parameter in parameters()
    if (parameter.metavar or "").split("|")[0] in ("DIR", "OUT", "CSV", "FILE.html", "FILE.jsonl")
    and parameter.name in ("out", "cache", "remote_cache", "patients", "picture")
]


def test_the_lists_below_are_not_empty():
    assert len(NUMBERS) >= 5
    assert len(FOLDERS) >= 20


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("option", NUMBERS)
def test_a_number_is_finite(parfocal: Parfocal, option: str, number: str):
    *words, name = option.split()
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    needed = []
    for each in command.params:
        if each.required:
            value = "mean" if each.name == "models" else "2"
            needed += [each.opts[-1], value] if each.opts[-1].startswith("--") else ["any"]
    found = parfocal(*words, *needed, f"{name}={number}")
    assert found.code == 2, found
    assert f"{name}: " in found.err


@pytest.mark.parametrize(
    ("command", "parameter"), FOLDERS, ids=lambda each: getattr(each, "name", each)
)
def test_a_folder_is_checked_when_the_command_is_read(command: str, parameter: Any):
    if (command, parameter.name) not in {("status", "out"), ("predict", "patients")}:  # are read
        assert parameter.callback is not None


COMMANDS = [
    ("demo", "--out", "{out}"),
    ("synth", "{out}", "--slides", "2", "--seed", "0"),
    ("extract", "none.csv", "--out", "{out}", "--magnifications", "2.5"),
    ("train", "none.csv", "--out", "{out}"),
    ("train", "none.csv", "--out", "run", "--cache", "{out}"),
    ("evaluate", "none", "none.csv", "--out", "{out}"),
    ("audit", "none", "none.csv", "--out", "{out}"),
    ("compare", "none.csv", "--models", "abmil", "--out", "{out}"),
    ("probe", "none.csv", "--encoders", "tiny", "--out", "{out}"),
    ("predict", "none", "none.tif", "--out", "{out}"),
    ("predict", "none", "none.tif", "--out", "new", "--remote-cache", "{out}"),
    ("predict", "none", "none.tif", "--out", "new", "--scratch", "{out}"),
    ("reproduce", "zoommil-camelyon16", "--data", "none", "--out", "{out}"),
    ("calibrate", "{out}", "none.csv"),
    ("export", "none", "--out", "{out}"),
    ("report", "none", "--out", "{out}/page.html"),
    ("report", "none", "--patients", "{out}"),
    ("inspect", "none.tif", "--out", "{out}/list.jsonl"),
    ("inspect", "none.tif", "--picture", "{out}/sheet.html"),
    ("cohort", "bach", "none", "--out", "{out}/cohort.csv"),
    ("cohort", "camelyon16", "{out}", "--download", "all"),
    ("cohort", "convert", "none.csv", "--out", "{out}/cohort.csv"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_that_cannot_be_written_is_refused_first(
    parfocal: Parfocal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
):
    """Root may write to any folder, so that of the processes stands for one that is read-only."""
    monkeypatch.chdir(tmp_path)
    found = parfocal(*(word.format(out="/proc/none") for word in command))
    assert found.code == 1
    assert "parfocal: /proc" in found.err  # "/proc/none" if --scratch, which a batch job may make
    assert "check the path and its permissions" in found.err
    assert list(tmp_path.iterdir()) == []


def test_the_check_of_a_folder_leaves_nothing_behind(parfocal: Parfocal, tmp_path: Path):
    (tmp_path / "out").mkdir()
    found = parfocal("extract", "none.csv", "--out", tmp_path / "out", "--magnifications", "2.5")
    assert found.code == 1
    assert list((tmp_path / "out").iterdir()) == []


def test_a_run_of_the_hub_is_not_calibrated(parfocal: Parfocal, tmp_path: Path):
    assert_refused(
        parfocal("calibrate", "hf:owner/name", tmp_path / "cohort.csv"),
        "hf:owner/name: a run of the Hub is not changed; copy it to a folder first.",
        code=2,
    )
