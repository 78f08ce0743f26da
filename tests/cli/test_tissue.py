"""Tissue files and the sheet of pictures on the command line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from command_result import CommandResult, assert_refused


@pytest.fixture
def contours(tmp_path: Path) -> Path:
    """A folder with the tissue of `one.tif`, a slide of 1024 px: its lower right quarter."""
    folder = tmp_path / "contours_geojson"
    folder.mkdir()
    ring = [[512, 512], [1024, 512], [1024, 1024], [512, 1024], [512, 512]]
    area = {"type": "Polygon", "coordinates": [ring]}
    (folder / "one.geojson").write_text(json.dumps(area))
    return folder


def test_inspect_draws_slides_and_cohorts_on_a_sheet(
    parfocal: Callable[..., CommandResult], slide: Path, tmp_path: Path
):
    table = tmp_path / "more.csv"
    with Image.open(slide) as whole:
        whole.crop((0, 0, 512, 512)).save(tmp_path / "two.png")
    table.write_text("slide_id,path,mpp\n2,two.png,1\n")
    sheet = tmp_path / "new" / "sheet.html"
    found = parfocal(
        "inspect", slide, table, "--magnifications", "2.5,10", "--picture", sheet, "--json"
    )
    assert found.code == 0
    assert [report["id"] for report in json.loads(found.out)] == ["one", "two"]
    assert sheet.read_text().count("data:image/jpeg") == 2


def test_inspect_refuses_a_sheet_of_another_kind(
    parfocal: Callable[..., CommandResult], slide: Path
):
    assert_refused(
        parfocal("inspect", slide, "--picture", "sheet.pdf"),
        "--picture: sheet.pdf: this kind of file cannot be written here; give a name that ends in",
        code=2,
    )


@pytest.mark.parametrize("name", ["otsu", "ots"])
def test_a_tissue_method_in_place_of_tissue_files_is_refused_with_the_option_for_it(
    parfocal: Callable[..., CommandResult], slide: Path, name: str
):
    found = parfocal("inspect", slide, "--tissue", name)
    assert_refused(found, f"--tissue {name}: no such file", "use --tissue-method (otsu, gray, all)")
    found = parfocal("predict", "run", slide, "--out", "out", "--tissue", name)
    assert_refused(found, f"--tissue {name}: no such file or folder; correct the path.")


def test_the_old_name_of_the_tissue_method_of_extract_is_refused_with_the_new_one(
    parfocal: Callable[..., CommandResult], tmp_path: Path
):
    command = ("extract", "cohort.csv", "--out", tmp_path, "--magnifications", 10)
    found = parfocal(*command, "--tissue", "gray")
    assert found.code == 2
    assert found.err.startswith("parfocal: there is no option --tissue. Did you mean ")
    assert "--tissue-method" in found.err


@pytest.mark.parametrize(("option", "share"), [("all", 1.0), ("", 0.25)])
def test_inspect_takes_a_tissue_method_or_tissue_files(
    parfocal: Callable[..., CommandResult], slide: Path, contours: Path, option: str, share: float
):
    tissue = ("--tissue-method", option) if option else ("--tissue", contours)
    found = parfocal("inspect", slide, *tissue, "--json")
    (report,) = json.loads(found.out)
    assert report["tissue_share"] == pytest.approx(share)
    assert report["tissue_source"] == ("found" if option else "one.geojson")


@pytest.mark.slow
def test_predict_uses_the_tissue_of_a_folder(
    parfocal: Callable[..., CommandResult], run: Path, slide: Path, contours: Path, tmp_path: Path
):
    out = tmp_path / "out"
    assert parfocal("predict", run, slide, "--out", out, "--tissue", contours).code == 0
    regions = json.loads((out / "one.json").read_text())["regions"]
    assert min(region["x"] + region["width"] for region in regions) > 512


def predictions(folder: Path) -> list[dict[str, str]]:
    """Return the table of an evaluation without the seconds."""
    with (folder / "predictions.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_every_command_uses_the_column_tissue_of_a_cohort(
    parfocal: Callable[..., CommandResult], run: Path, cohort: Path, tmp_path: Path
):
    """All slides get the tissue of their left half, in features, evaluation and audit alike."""
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, :32] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    header, *rows = cohort.read_text().splitlines()
    rows = [row.replace(",", f",{cohort.parent}/", 1) + ",mask.png" for row in rows]
    table = tmp_path / "masked.csv"
    table.write_text("\n".join((f"{header},tissue", *rows)) + "\n")
    settings = ("--magnifications", "2.5,10", "--encoder", "tiny", "--patch-size", "64")
    features = tmp_path / "features"
    extracted = parfocal("extract", table, "--out", features, *settings)
    assert extracted.code == 0, extracted.err
    live = parfocal("evaluate", run, table, "--out", tmp_path / "live")
    stored = parfocal("evaluate", run, table, "--out", tmp_path / "stored", "--features", features)
    assert (live.code, stored.code) == (0, 0), live.err + stored.err
    assert predictions(tmp_path / "live") == predictions(tmp_path / "stored") != []
    assert parfocal("audit", run, table, "--out", tmp_path / "audit").code == 0
    refused = parfocal("evaluate", run, cohort, "--out", tmp_path / "no", "--features", features)
    assert refused.code == 1
    assert "made with tissue from a file" in refused.err
