"""Folders of slides, and other files among them, in every command that takes them."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.slide.readers.dicom_files import write_dicom

from command_result import CommandResult
from conftest import stained
from parfocal.explain.library import load_library
from small import TINY, write_table


def write_series(folder: Path, *, series: str = "1.2.3.4") -> None:
    """Write a DICOM slide of two levels, at 10x and 5x."""
    folder.mkdir(exist_ok=True)
    pixels = np.ascontiguousarray(stained(1024, dark=True))
    for level, step in enumerate((1, 2)):
        shown = np.ascontiguousarray(pixels[::step, ::step])
        path = folder / f"{folder.name}-{level}.dcm"
        write_dicom(path, shown, mpp=float(step), series=series)


@pytest.fixture
def slides(tmp_path: Path, slide: Path) -> Path:
    """A folder of two TIFF slides and a DICOM series, with another series in a subfolder."""
    folder = tmp_path / "slides"
    folder.mkdir()
    shutil.copy(slide, folder / "a.tif")
    (folder / "b.tif").write_bytes(slide.read_bytes() + b"\0\0")
    write_series(folder)
    write_series(folder / "nested", series="1.2.3.9")
    (folder / "._a.tif").write_bytes(b"\0\5\x16\7")  # as macOS writes on other disks
    (folder / "notes.txt").write_text("no slide")
    (folder / "thumbnail.png").write_bytes(b"no slide either")
    return folder


NAMES = ["a", "b", "nested", "slides"]  # a series is called like its folder


def test_inspect_lists_all_slides_of_a_folder(parfocal: Callable[..., CommandResult], slides: Path):
    found = parfocal("inspect", slides, "--json", "--magnifications", "2.5,10")
    assert found.code == 0, found.err
    assert sorted(report["id"] for report in json.loads(found.out)) == NAMES


def test_predict_lists_all_slides_of_a_folder(
    parfocal: Callable[..., CommandResult], run: Path, slides: Path, tmp_path: Path
):
    found = parfocal("predict", run, slides, "--out", tmp_path / "out")
    assert found.code == 0, found.err
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.json")) == NAMES
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert sorted(row["slide_id"] for row in csv.DictReader(file)) == NAMES


def test_the_viewer_shows_all_slides_of_a_folder(slides: Path):
    library = load_library([slides])
    assert sorted(slide.id for slide in library.slides.values()) == NAMES
    assert library.problems == []


def test_a_folder_of_one_series_is_one_slide_in_every_command(
    parfocal: Callable[..., CommandResult], run: Path, tmp_path: Path
):
    series = tmp_path / "case-7"
    write_series(series)
    found = parfocal("inspect", series, *sorted(series.glob("*.dcm")), "--json")
    assert [report["id"] for report in json.loads(found.out)] == ["case-7"]
    found = parfocal("predict", run, series, "--out", tmp_path / "out")
    assert found.code == 0, found.err
    assert [path.stem for path in (tmp_path / "out").glob("*.json")] == ["case-7"]
    assert [slide.id for slide in load_library([series]).slides.values()] == ["case-7"]
    table = write_table(tmp_path / "t.csv", ("slide_id", "path"), ("x", "case-7"))
    options = ("--out", tmp_path / "features", *TINY, "--patch-size", "64")
    assert parfocal("extract", table, *options).code == 0


def test_a_damaged_dicom_file_in_a_folder_of_slides_is_one_failure(
    parfocal: Callable[..., CommandResult], slides: Path
):
    (slides / "bad.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 100)
    shutil.rmtree(slides / "nested")
    for file in slides.glob("slides-*.dcm"):
        file.unlink()
    found = parfocal("inspect", slides, "--json", "--magnifications", "2.5,10")
    assert found.code == 1
    assert sorted(report["id"] for report in json.loads(found.out)) == ["a", "b"]
    assert "1 of 3 slides failed" in found.err
    assert "bad.dcm" in found.err


def test_pictures_are_slides_where_there_is_nothing_else(
    parfocal: Callable[..., CommandResult], tmp_path: Path
):
    for name in ("x.png", "y.jpg"):
        Image.fromarray(stained(512, dark=True)).save(tmp_path / name)
    found = parfocal("inspect", tmp_path, "--mpp", "1", "--json")
    assert sorted(report["id"] for report in json.loads(found.out)) == ["x", "y"]


# --- other files among the slides, as `slides/*` names them ---


@pytest.fixture
def named(slides: Path) -> list[Path]:
    """What a shell makes of `slides/*`, with files that are called like the slides."""
    (slides / "a.xml").write_text("<Annotations/>")
    (slides / "b.csv").write_text("x,y\n1,2\n")
    (slides / "a.json").write_text("{}")
    return sorted(slides.glob("[!.]*"))


def test_inspect_goes_on_after_other_files(
    parfocal: Callable[..., CommandResult], named: list[Path]
):
    found = parfocal("inspect", *named, "--json", "--magnifications", "2.5,10")
    assert found.code == 1
    assert sorted(report["id"] for report in json.loads(found.out)) == NAMES
    assert "5 of 9 slides failed" in found.err
    assert "b.csv" in found.err


def test_predict_goes_on_after_other_files(
    parfocal: Callable[..., CommandResult], run: Path, named: list[Path], tmp_path: Path
):
    for _ in range(2):  # and when it goes on where it stopped
        found = parfocal("predict", run, *named, "--out", tmp_path / "out")
        assert found.code == 1
        assert "5 of 9 slides failed" in found.err
        with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
            rows = {row["slide_id"]: row["predicted"] for row in csv.DictReader(file)}
        assert sorted(rows) == sorted([*NAMES, "notes", "thumbnail"])
        assert all(rows[name] for name in NAMES)


def test_two_slides_of_one_name_are_still_refused(
    parfocal: Callable[..., CommandResult], run: Path, slides: Path, tmp_path: Path
):
    shutil.copy(slides / "a.tif", slides / "a.tiff")
    found = parfocal("predict", run, slides, "--out", tmp_path / "out")
    assert found.code == 1
    assert "would both be written as 'a'" in found.err


def test_a_table_and_the_slides_that_it_lists_are_inspected_once(
    parfocal: Callable[..., CommandResult], slides: Path
):
    table = write_table(slides / "cohort.csv", ("slide_id", "path", "mpp"), ("a", "a.tif", "0.9"))
    found = parfocal("inspect", slides / "a.tif", table, "--json")
    (report,) = json.loads(found.out)
    assert report["mpp"] == 0.9


def test_a_table_alone_that_is_no_cohort_is_refused(
    parfocal: Callable[..., CommandResult], tmp_path: Path
):
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    found = parfocal("inspect", tmp_path / "t.csv")
    assert found.code == 1
    assert found.err.count("\n") == 1
    assert "slide_id" in found.err


def test_magnifications_that_a_slide_does_not_have_are_a_warning(
    parfocal: Callable[..., CommandResult], slide: Path
):
    found = parfocal("inspect", slide, "--magnifications", "2.5,40")
    assert found.code == 0
    assert "patches        none: " in found.out
    assert "parfocal: warning: 1 of 1 slides have no patches:" in found.err
    assert "40x" in found.err
