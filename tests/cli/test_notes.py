"""What is unusual about a slide file is said in every command that reads it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tifffile

from command_result import CommandResult
from parfocal.explain.read_record import read_prediction
from small import TINY, write_table

NOTE = "Orientation is 3; the picture is turned upright"


def turn(path: Path) -> Path:
    """Say that the pixels of a slide lie upside down."""
    pixels = tifffile.imread(path)
    extra = [(274, 3, 1, 3, True)]
    options = {"tile": (256, 256), "photometric": "rgb", "metadata": None, "extratags": extra}
    resolution = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, **options, **resolution)
    return path


def test_predict_warns_and_records_the_note(
    parfocal: Callable[..., CommandResult],
    run: Path,
    slide: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    turn(slide)
    assert parfocal("predict", run, slide, "--out", tmp_path / "out").code == 0
    assert caplog.text.count(NOTE) == 1
    record = tmp_path / "out" / "one.json"
    assert json.loads(record.read_text())["notes"] == [NOTE]
    assert read_prediction(record).notes == (NOTE,)


def test_extract_warns(
    parfocal: Callable[..., CommandResult],
    slide: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    table = write_table(tmp_path / "t.csv", ("slide_id", "path"), ("x", turn(slide).name))
    options = (*TINY, "--patch-size", "64")
    assert parfocal("extract", table, "--out", tmp_path / "out", *options).code == 0
    assert caplog.text.count(f"one.tif: {NOTE}") == 1


def test_train_warns_once_for_each_slide(
    parfocal: Callable[..., CommandResult],
    cohort: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    rows = cohort.read_text().splitlines()
    for name in ("000.tif", "001.tif"):
        (tmp_path / name).write_bytes((cohort.parent / name).read_bytes())
        turn(tmp_path / name)
    for number, row in enumerate(rows[3:], start=3):
        name, path, *rest = row.split(",")
        rows[number] = ",".join((name, str(cohort.parent / path), *rest))
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    options = (*TINY, "--set", "slide.patch_size=64", "--set", "model.k=2", "--epochs", "2")
    found = parfocal("train", tmp_path / "cohort.csv", "--out", tmp_path / "run", *options)
    assert found.code == 0, found.err
    for name in ("000.tif", "001.tif"):
        assert caplog.text.count(f"{name}: {NOTE}") == 1


def test_records_without_notes_are_read(run: Path, slide: Path, tmp_path: Path, parfocal):
    assert parfocal("predict", run, slide, "--out", tmp_path / "out").code == 0
    record = tmp_path / "out" / "one.json"
    content = json.loads(record.read_text())
    assert content.pop("notes") == []
    record.write_text(json.dumps(content))
    assert read_prediction(record).notes == ()
