"""Mistakes in a command: one line that says what is wrong and how to get help."""

from collections.abc import Callable
from pathlib import Path

import pytest

from command_result import CommandResult, assert_refused

MISTAKES = [
    (("inspect", "a", "--mpp", "abc"), "--mpp: 'abc' is invalid; use a number."),
    (
        ("train", "a", "--out", "b", "--epochs", "x"),
        "--epochs: 'x' is invalid; use a whole number.",
    ),
    (("train", "a", "--out", "b", "--epochs", "0"), "--epochs: '0' is invalid; use 1 or more."),
    (("view", "a", "--port", "70000"), "--port: '70000' is invalid; use 65535 or less."),
    (
        ("evaluate", "a", "b", "--out", "c", "--split", "tst"),
        "--split: 'tst' is not one of 'train', 'val', 'test', 'all'.",
    ),
    (
        ("inspect", "a", "--tissue-method", "ots"),
        "--tissue-method: 'ots' is not one of 'otsu', 'gray', 'all'.",
    ),
    (("inspect", "a", "--magnifications", "10,x"), "--magnifications: '10,x' is not a list like"),
    (
        ("extract", "a", "--out", "b", "--magnifications", "10", "--shard", "5/4"),
        "--shard: 5/4: there is no such shard; shards are counted from 1, so the first of 4 is",
    ),
    (
        ("predict", "a", "b", "--out", "c", "--shard", "0/4"),
        "--shard: 0/4: there is no such shard;",
    ),
    (
        ("evaluate", "a", "b", "--out", "c", "--shard", "3"),
        "--shard: 3: give the number of the shard and of all shards, such as 3/8.",
    ),
    (("train", "a"), "--out is missing."),
    (
        ("train", "a", "--out", "b", "--target", "age,"),
        "--target: 'age,' has a column without a name; separate names by commas.",
    ),
    (
        ("--verbose", "recipes"),
        "--verbose: give --version with it; for the traceback of an error, use --debug.",
    ),
    (("train",), "COHORT is missing."),
    (("train", "a", "b", "c", "--out", "d"), "unexpected extra argument: b c."),
    (("train", "a", "--outt", "b"), "there is no option --outt. Did you mean --out?"),
    (("trainn", "a"), "there is no command trainn. Did you mean 'train'?"),
    (("train", "a", "--resume=3"), "--resume does not take a value."),
    (("cohort", "bach", "a"), "--out: give --out, --download or both."),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES)
def test_a_mistake_is_described_on_one_line(
    parfocal: Callable[..., CommandResult], command: tuple[str, ...], message: str
):
    found = parfocal(*command)
    assert found.code == 2
    assert found.err.startswith(f"parfocal: {message}")
    assert found.err.count("\n") == 1
    assert found.err.endswith("--help`.\n")
    assert "Value error" not in found.err


def test_without_arguments_the_help_is_printed(parfocal: Callable[..., CommandResult]):
    found = parfocal()
    assert found.code == 0
    assert "Classify whole-slide images by learning where to zoom." in found.out


WRONG_FILES = [
    (("report", "none", "--out", "r.pdf"), ".html or .htm"),
    (("inspect", "none", "--picture", "sheet.txt"), ".html or .png"),
    (("inspect", "none", "--out", "results.csv"), ".jsonl"),
    (("cohort", "bach", "none", "--out", "cohort.xlsx"), ".csv"),
]


@pytest.mark.parametrize(("command", "allowed"), WRONG_FILES)
def test_an_output_file_of_another_format_is_refused(
    parfocal: Callable[..., CommandResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    allowed: str,
):
    monkeypatch.chdir(tmp_path)
    assert_refused(parfocal(*command), f"{command[-1]}: this kind of file cannot be", allowed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "run", "cohort.csv", "--out", "metrics.json"),
        ("train", "cohort.csv", "--out", "model.pt"),
        ("predict", "run", "a.svs", "--out", "predictions.csv"),
        ("extract", "cohort.csv", "--magnifications", "10", "--out", "features.h5"),
    ],
)
def test_the_name_of_a_file_is_refused_as_an_output_folder(
    parfocal: Callable[..., CommandResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
):
    monkeypatch.chdir(tmp_path)
    assert_refused(parfocal(*command), f"{command[-1]}: this is the name of a file", "a folder.")
