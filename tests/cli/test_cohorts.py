"""What commands say about a cohort, and the cohorts that they refuse."""

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from command_result import CommandResult, assert_refused
from parfocal.cli.program import RepeatedCohortMessages
from small import TINY, write_table

SUMMARY = "cohort.csv: 2 classes: normal 6, tumor 6 (12 slides, patients not given)"
SETTINGS = ("--set", "slide.patch_size=64", "--set", "model.k=2", "--epochs", "1")


@pytest.mark.parametrize("command", ["extract", "train", "evaluate", "audit"])
def test_a_command_says_which_classes_a_cohort_has(
    parfocal: Callable[..., CommandResult],
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    command: str,
):
    cohort, run, features = map(request.getfixturevalue, ("cohort", "run", "features"))
    out = ("--out", tmp_path / "out", "--features", features)
    arguments = {
        "extract": (cohort, "--out", features, *TINY, "--patch-size", "64"),
        "train": (cohort, *out, *TINY, *SETTINGS),
        "evaluate": (run, cohort, *out),
        "audit": (run, cohort, *out),
    }[command]
    caplog.set_level(logging.INFO)
    result = parfocal(command, *map(str, arguments))
    assert result.code == 0, result.err
    assert SUMMARY in caplog.messages


def test_what_is_said_about_a_cohort_is_printed_once():
    repeated = RepeatedCohortMessages()

    def printed(logger: str, message: str) -> bool:
        record = logging.LogRecord(logger, logging.INFO, "", 0, "%s", (message,), None)
        return repeated.filter(record)

    assert [printed("parfocal.dataset.cohort", text) for text in ("a", "a", "b")] == [1, 0, 1]
    assert [printed("parfocal.train.trainer", text) for text in ("a", "a")] == [1, 1]


def rows_of(cohort: Path) -> list[dict[str, str]]:
    with cohort.open(newline="") as file:
        return list(csv.DictReader(file))


def table(folder: Path, cohort: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write a table of some slides of a cohort, with other ids and labels."""
    slides = [(name, cohort.parent / path, label, "test") for name, path, label in rows]
    return write_table(folder / "new.csv", ("slide_id", "path", "label", "split"), *slides)


@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_training_slides_are_refused_in_an_external_cohort(
    parfocal: Callable[..., CommandResult], cohort: Path, run: Path, tmp_path: Path, command: str
):
    slides = rows_of(cohort)
    train, test = (next(s for s in slides if s["split"] == part) for part in ("train", "test"))
    rows = [("a", train["path"], train["label"]), ("b", test["path"], test["label"])]
    new = table(tmp_path, cohort, rows)
    for external in ((), ("--external",)):
        result = parfocal(command, str(run), str(new), "--out", str(tmp_path / "out"), *external)
        assert_refused(result, "new.csv: 1 of the 2 slides", "were used for training", "(a)")
        assert ("--allow-training-slides" in result.err) == (command == "evaluate")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["extract", "train", "evaluate", "audit", "compare"])
def test_one_slide_file_in_two_rows_is_refused(
    parfocal: Callable[..., CommandResult], cohort: Path, run: Path, tmp_path: Path, command: str
):
    slides = rows_of(cohort)
    rows = [tuple(slide[name] for name in ("slide_id", "path", "label")) for slide in slides]
    other = tmp_path / "other-name.tif"
    other.write_bytes((cohort.parent / "000.tif").read_bytes())
    out = ("--out", str(tmp_path / "out"))
    extra = {"train": TINY, "extract": TINY, "compare": ("--models", "mean", "--encoder", "tiny")}
    before = (str(run),) if command in ("evaluate", "audit") else ()
    for path, relation in (("000.tif", "is also"), (str(other), "has the same content as")):
        new = table(tmp_path, cohort, [*rows, ("c", path, "tumor")])
        lines = new.read_text().splitlines()
        parts = ["split", *(slide["split"] for slide in slides), "test"]
        lines = [f"{line.rpartition(',')[0]},{p}" for line, p in zip(lines, parts, strict=True)]
        new.write_text("\n".join(lines))
        result = parfocal(command, *before, str(new), *out, *extra.get(command, ()))
        words = (
            f"new.csv row 14: {cohort.parent / path} {relation}",
            "row 2 (slide_id '000' and 'c'",
        )
        if before and relation != "is also":  # only test slides are compared there
            words = ("used for training", "(c)")
        assert_refused(result, *words)
