"""No output replaces a slide or a file of another kind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from command_result import CommandResult, assert_refused

Parfocal = Callable[..., CommandResult]


@pytest.mark.parametrize(
    "command",
    [
        (
            "extract",
            "{cohort}",
            "--out",
            "{slides}",
            "--magnifications",
            "2.5",
            "--encoder",
            "tiny",
        ),
        ("train", "{cohort}", "--out", "{slides}", "--encoder", "tiny"),
        ("evaluate", "{run}", "{cohort}", "--out", "{slides}"),
        ("audit", "{run}", "{cohort}", "--out", "{slides}"),
        ("compare", "{cohort}", "--models", "abmil", "--out", "{slides}", "--encoder", "tiny"),
        ("predict", "{run}", "{slides}/000.tif", "--out", "{slides}"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_the_folder_of_the_slides_is_refused_by_every_command(
    parfocal: Parfocal,
    cohort: Path,
    run: Path,
    tmp_path: Path,
    command: tuple[str, ...],
    *,
    linked: bool,
):
    slides = cohort.parent
    before = sorted(slides.iterdir())
    if linked:
        slides = tmp_path / "link"
        slides.symlink_to(cohort.parent)
    words = [word.format(cohort=cohort, run=run, slides=slides) for word in command]
    assert_refused(
        parfocal(*words), f"{slides}: this folder holds the slide 000.tif, which results could"
    )
    assert sorted(cohort.parent.iterdir()) == before


def test_a_page_does_not_replace_a_slide_or_a_table(
    parfocal: Parfocal, slide: Path, tmp_path: Path
):
    table, scan = tmp_path / "cohort.html", tmp_path / "slide.html"
    table.write_text("slide_id,path\n")
    before = slide.read_bytes()
    scan.write_bytes(before)
    assert_refused(
        parfocal("report", tmp_path, "--out", scan),
        f"{scan}: the file exists and is not text, so it is not replaced; it may be a slide.",
    )
    assert_refused(
        parfocal("report", tmp_path, "--out", table),
        f"{table}: the file exists and is not an HTML page. Choose another --out.",
    )
    assert (scan.read_bytes(), table.read_text()) == (before, "slide_id,path\n")
    refused = parfocal("report", tmp_path, "--out", slide)
    assert_refused(refused, "--out: ", "name that ends in .html or .htm", code=2)
    assert slide.read_bytes() == before


def test_a_cohort_does_not_replace_a_slide(parfocal: Parfocal, slide: Path, tmp_path: Path):
    scan = tmp_path / "slide.csv"
    scan.write_bytes(slide.read_bytes())
    assert_refused(
        parfocal("cohort", "bach", tmp_path, "--out", scan), f"{scan}: the file exists and is not"
    )
    assert scan.read_bytes() == slide.read_bytes()
