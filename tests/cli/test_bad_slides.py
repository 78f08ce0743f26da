"""Errors of predict and train for unusable slide files: one line each."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from command_result import CommandResult, assert_refused
from small import TINY, write_table


def truncated(slide: Path) -> None:
    slide.write_bytes(slide.read_bytes()[: slide.stat().st_size // 2])


def damaged(slide: Path) -> None:
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0]
        places = zip(page.dataoffsets, page.databytecounts, strict=True)
    with slide.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(bytes(count))


def not_a_slide(slide: Path) -> None:
    slide.write_text("slide_id,path,label\n")


def picture(slide: Path, **tags: object) -> None:
    pixels = tifffile.imread(slide)
    tifffile.imwrite(slide, pixels, tile=(256, 256), photometric="rgb", metadata=None, **tags)


def without_mpp(slide: Path) -> None:
    picture(slide, resolution=(1, 1), resolutionunit="NONE")


def absurd(slide: Path) -> None:
    picture(slide, resolution=(72, 72), resolutionunit="INCH")


def blank(slide: Path) -> None:
    tifffile.imwrite(
        slide,
        np.full((1024, 1024, 3), 255, dtype=np.uint8),
        tile=(256, 256),
        photometric="rgb",
        resolution=(1e4, 1e4),
        resolutionunit="CENTIMETER",
    )


def small(slide: Path) -> None:
    pixels = tifffile.imread(slide)[:200, :200]
    tifffile.imwrite(
        slide,
        pixels,
        tile=(64, 64),
        photometric="rgb",
        resolution=(1e4, 1e4),
        resolutionunit="CENTIMETER",
    )


def coarse(slide: Path) -> None:
    picture(slide, resolution=(2.5e3, 2.5e3), resolutionunit="CENTIMETER")


def a_folder(slide: Path) -> None:
    slide.unlink()
    slide.mkdir()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "no such file"),
        (not_a_slide, "not a slide"),
        (truncated, "one"),
        (damaged, "one"),
        (without_mpp, "no microns per pixel, so its magnification is unknown. Set it with --mpp"),
        (absurd, "the plausible range of 0.05 to 50"),
        (blank, "tissue"),
        (small, "0.78 x 0.78 of a patch at 2.5x"),
        (small, "the model was trained at 2.5x, 10x and takes no other"),
        (coarse, "10x (1 µm/px) is sharper than the scan, which is 2.5x"),
        (coarse, "exclude the slide"),
        (a_folder, "this folder holds nothing. Name slide files"),
    ],
)
def test_a_bad_slide_is_refused_in_one_line(
    parfocal: Callable[..., CommandResult],
    run: Path,
    slide: Path,
    *,
    damage: Callable[[Path], None],
    words: str,
):
    out = slide.parent / "out"
    damage(slide)
    found = parfocal("predict", run, slide, "--out", out)
    assert found.code == 1
    assert found.out == ""
    assert found.err.startswith("parfocal: ")
    assert found.err.count("\n") == 1
    assert "one" in found.err
    assert words in found.err
    assert {path.name for path in out.glob("[!.]*")} == {"predictions.csv"}


def test_the_current_folder_is_named_as_given(
    parfocal: Callable[..., CommandResult],
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert_refused(parfocal("inspect", "."), "parfocal: .: this folder holds no")
    assert_refused(
        parfocal("predict", run, ".", "--out", "out"), "parfocal: .: this folder holds no"
    )


# Mistakes in a cohort, and words of their messages.

GOOD = ("001", "001.tif", "tumor")
MISSING = ((*GOOD, "train"), ("2", "none.tif", "normal", "train"), ("3", "003.tif", "tumor", "val"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("slide_id", "path"), GOOD[:2]], "label"),
        ([("slide_id", "path", "label"), GOOD, GOOD], "001"),
        ([("slide_id", "path", "label"), GOOD], "every slide has the label 'tumor'"),
        ([("slide_id", "path", "label", "split"), *MISSING], "none.tif (row 3)"),
        ([("slide_id", "path", "label")], "no slides"),
    ],
)
def test_a_bad_cohort_is_refused_in_one_line(
    parfocal: Callable[..., CommandResult],
    cohort: Path,
    tmp_path: Path,
    rows: list[tuple[str, ...]],
    words: str,
):
    for name in ("001.tif", "003.tif"):
        shutil.copy(cohort.parent / name, tmp_path)
    table = write_table(tmp_path / "bad.csv", *rows)
    assert_refused(parfocal("train", table, "--out", tmp_path / "run", *TINY), words, "bad.csv")
    assert not (tmp_path / "run").exists()
