"""Slides that cannot be read are left out before the split."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from command_result import CommandResult, assert_refused
from parfocal.dataset.split import read_left_out, read_split
from small import TINY, write_table

OPTIONS = (*TINY, "--epochs", "1", "--set", "slide.patch_size=64", "--set", "model.k=2")


@pytest.fixture
def slides(cohort: Path, tmp_path: Path) -> list[tuple[str, str, str]]:
    """Rows of six slides of each class, each of its own patient."""
    rows = []
    for number in range(12):
        path = tmp_path / f"s{number:02}.tif"
        shutil.copy(cohort.parent / f"{number:03}.tif", path)
        rows.append((path.stem, path.name, "tumor" if number % 2 else "normal"))
    return rows


def parts(run: Path) -> dict[str, str]:
    return {row.slide_id: row.split for row in read_split(run / "split.csv")}


@pytest.mark.slow
def test_the_others_are_split_as_if_the_cohort_did_not_have_them(
    parfocal: Callable[..., CommandResult],
    slides: list[tuple[str, str, str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    header = ("slide_id", "path", "label")
    bad = ["s00", "s03", "s05"]
    clean = write_table(tmp_path / "clean.csv", header, *(r for r in slides if r[0] not in bad))
    whole = write_table(tmp_path / "whole.csv", header, *slides)
    for name in bad:
        (tmp_path / f"{name}.tif").write_text("<html>404</html>")
    assert parfocal("train", clean, "--out", tmp_path / "clean", *OPTIONS).code == 0
    found = parfocal("train", whole, "--out", tmp_path / "run", *OPTIONS)
    assert_refused(found, "slides cannot be read")
    assert not (tmp_path / "run").exists()
    found = parfocal("train", whole, "--out", tmp_path / "run", *OPTIONS, "--skip-unreadable")
    assert found.code == 0, found.err
    assert "parfocal: 3 of 12 slides were left out:" in found.err
    assert parts(tmp_path / "run") == parts(tmp_path / "clean")
    left_out = read_left_out(tmp_path / "run")
    assert left_out is not None
    assert sorted(left_out) == bad
    # They are in no part of the run, and a repaired one does not change the run.
    found = parfocal("evaluate", tmp_path / "run", whole, "--out", tmp_path / "evaluation")
    assert found.code == 0, found.err
    assert "3 of the 12 slides were left out of the run" in caplog.text
    with (tmp_path / "evaluation" / "predictions.csv").open(newline="") as file:
        tested = {row["slide_id"] for row in csv.DictReader(file)}
    assert tested == {name for name, part in parts(tmp_path / "run").items() if part == "test"}
    again = parfocal("train", whole, "--out", tmp_path / "run", *OPTIONS, "--resume")
    assert again.code == 0, again.err


@pytest.mark.slow
def test_folds_are_made_of_the_others(
    parfocal: Callable[..., CommandResult], slides: list[tuple[str, str, str]], tmp_path: Path
):
    whole = write_table(tmp_path / "whole.csv", ("slide_id", "path", "label"), *slides)
    (tmp_path / "s04.tif").write_bytes(b"")
    (tmp_path / "s07.tif").unlink()
    command = ("train", whole, "--out", tmp_path / "run", *OPTIONS, "--folds", "2")
    found = parfocal(*command, "--skip-unreadable")
    assert found.code == 0, found.err
    for fold in ("fold-0", "fold-1"):
        assert sorted(read_left_out(tmp_path / "run" / fold) or {}) == ["s04", "s07"]
        tests = [name for name, part in parts(tmp_path / "run" / fold).items() if part == "test"]
        assert len(tests) == 5


def test_too_few_slides_that_are_left_are_refused(
    parfocal: Callable[..., CommandResult],
    slides: list[tuple[str, str, str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    whole = write_table(tmp_path / "whole.csv", ("slide_id", "path", "label"), *slides)
    for number in range(0, 12, 2):
        (tmp_path / f"s{number:02}.tif").write_text("no slide")
    command = ("train", whole, "--out", tmp_path / "run", *OPTIONS, "--skip-unreadable")
    found = parfocal(*command)
    assert found.code == 1
    assert "class 'normal'" in found.err
    assert "left out: s00.tif, s02.tif, s04.tif and 3 more: not a slide" in caplog.text
    for number in range(1, 12, 2):
        (tmp_path / f"s{number:02}.tif").write_text("no slide")
    found = parfocal(*command)
    assert "none of the 12 slides can be read" in found.err
