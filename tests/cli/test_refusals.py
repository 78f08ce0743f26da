"""Refused commands: one line with advice, no traceback, no partial output."""

import json
import os
import shutil
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path

import h5py
import pytest

from command_result import CommandResult, assert_refused
from parfocal.features.errors import UnwritableError
from parfocal.predict import folder as predict_module
from small import TINY, write_table


def test_a_label_the_model_was_not_trained_on_is_refused(
    parfocal: Callable[..., CommandResult], run: Path, cohort: Path, tmp_path: Path
):
    table = write_table(
        tmp_path / "other.csv",
        ("slide_id", "path", "label"),
        ("006", str(cohort.parent / "006.tif"), "benign"),
    )
    found = parfocal("evaluate", run, table, "--out", tmp_path / "out")
    assert_refused(found, "other.csv", "'benign'", "normal, tumor")


def test_a_slide_too_small_to_train_on_names_the_option_that_helps(
    parfocal: Callable[..., CommandResult], cohort: Path, tmp_path: Path
):
    command = (
        "train",
        cohort,
        "--out",
        tmp_path / "run",
        *TINY[:2],
        "--magnifications",
        "0.625,10",
    )
    assert_refused(
        parfocal(*command),
        "0.25 x 0.25 of a patch at 0.625x",
        "use magnifications of 2.5x or higher (slide.magnifications)",
    )


def test_a_comparison_says_how_to_set_magnifications_that_slides_have(
    parfocal: Callable[..., CommandResult], cohort: Path, tmp_path: Path
):
    command = ("compare", cohort, "--models", "mean,zoommil", "--encoder", "tiny")
    found = parfocal(
        *command, "--out", tmp_path / "out", "--set", "zoommil:slide.magnifications=[0.625,10]"
    )
    assert found.code == 1
    assert found.err.endswith(
        "In a comparison, set slide.magnifications of a model with --set "
        "MODEL:slide.magnifications=[5,10], or of all models with --set "
        "slide.magnifications=[5,10].\n"
    )
    assert "--magnifications" not in found.err


WRITE_FOLDERS = [
    ("demo", "--out"),
    ("synth", "--slides", 2, "--seed", 0),
    ("extract", "none.csv", "--magnifications", 10, "--out"),
    ("train", "none.csv", "--out"),
    ("evaluate", "no-run", "none.csv", "--out"),
    ("compare", "none.csv", "--models", "mean", "--out"),
    ("reproduce", "jsma-bach", "--data", "none", "--out"),
    ("audit", "no-run", "none.csv", "--out"),
    ("predict", "no-run", "none.tif", "--out"),
]
WRITE_FILES = [("report", "none", "--out"), ("cohort", "bach", "none", "--out")]


@pytest.mark.parametrize("command", WRITE_FOLDERS)
def test_a_file_is_refused_as_an_output_folder(
    parfocal: Callable[..., CommandResult], tmp_path: Path, command: tuple[str | int, ...]
):
    (tmp_path / "cohort.csv").touch()
    for place in (tmp_path / "cohort.csv", tmp_path / "cohort.csv" / "new"):
        assert_refused(
            parfocal(*command, place), "cohort.csv: is a file, but a folder is needed; choose"
        )


@pytest.mark.parametrize("command", WRITE_FILES)
def test_a_folder_is_refused_as_an_output_file(
    parfocal: Callable[..., CommandResult], tmp_path: Path, command: tuple[str, ...]
):
    assert_refused(
        parfocal(*command, tmp_path), f"{tmp_path}: is a folder, but a file is needed; give a f"
    )


def test_output_folders_are_created(
    parfocal: Callable[..., CommandResult], run: Path, tmp_path: Path
):
    page = tmp_path / "new" / "folder" / "report.html"
    assert parfocal("report", run, "--out", page).code == 0
    assert page.exists()


def test_training_slides_are_evaluated_only_with_the_option(
    parfocal: Callable[..., CommandResult], run: Path, cohort: Path, tmp_path: Path
):
    command = ("evaluate", run, cohort, "--out", tmp_path, "--split", "train")
    assert_refused(parfocal(*command), "--allow-training-slides")
    assert parfocal(*command, "--allow-training-slides").code == 0


def test_a_run_folder_that_exists_is_refused(
    parfocal: Callable[..., CommandResult], run: Path, cohort: Path
):
    assert_refused(parfocal("train", cohort, "--out", run, *TINY), str(run), "--resume")


def test_a_checkpoint_of_a_newer_version_is_refused(
    parfocal: Callable[..., CommandResult], run: Path, slide: Path, tmp_path: Path
):
    shutil.copytree(run, tmp_path / "newer")
    path = tmp_path / "newer" / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    found = parfocal("predict", tmp_path / "newer", slide, "--out", tmp_path / "out")
    assert_refused(found, "checkpoint.json", "99", "Update parfocal")


def test_a_folder_that_is_no_run_is_refused(
    parfocal: Callable[..., CommandResult], slide: Path, tmp_path: Path
):
    assert_refused(
        parfocal("predict", tmp_path, slide, "--out", tmp_path / "out"), "checkpoint.json"
    )


def test_features_of_another_encoder_are_refused(
    parfocal: Callable[..., CommandResult], cohort: Path, features: Path, tmp_path: Path
):
    with h5py.File(features / "000.h5", "r+") as file:
        file.attrs["encoder_name"] = "resnet50-layer3"
    command = ("train", cohort, "--out", tmp_path / "run", "--features", features)
    found = parfocal(*command, *TINY, "--set", "slide.patch_size=64")
    assert_refused(found, "features", "resnet50-layer3", "tiny")


def test_missing_weights_are_refused_before_training_on_features(
    parfocal: Callable[..., CommandResult], cohort: Path, features: Path, tmp_path: Path
):
    command = ("train", cohort, "--out", tmp_path / "run", "--features", features, *TINY)
    settings = ("--set", "slide.patch_size=64", "--set", "encoder.weights=none.pth")
    assert_refused(parfocal(*command, *settings), "none.pth: no such weights file")


def test_features_of_a_newer_format_are_refused(
    parfocal: Callable[..., CommandResult], run: Path, cohort: Path, features: Path, tmp_path: Path
):
    for path in features.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file.attrs["format_version"] = 99
    out = tmp_path / "evaluation"
    found = parfocal("evaluate", run, cohort, "--out", out, "--features", features)
    assert found.code == 1
    assert "99" in found.err
    assert "000.h5" in found.err


def test_magnifications_that_are_not_numbers_are_a_usage_error(
    parfocal: Callable[..., CommandResult], cohort: Path, tmp_path: Path
):
    found = parfocal("extract", cohort, "--out", tmp_path, "--magnifications", "low,high")
    assert found.code == 2
    assert "2.5,5,10" in found.err


def test_descending_magnifications_are_refused(
    parfocal: Callable[..., CommandResult], cohort: Path, tmp_path: Path
):
    out = tmp_path / "features"
    found = parfocal("extract", cohort, "--out", out, "--magnifications", "10,2.5")
    assert_refused(found, "--magnifications: [10, 2.5] do not ascend; give the lowest", code=2)
    assert not out.exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epoch=3", "known: epochs"),
        ("trian.epochs=3", "known: slide, encoder, model, train"),  # codespell:ignore trian
        ("train.epochs=many", "many"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_known_ones(
    parfocal: Callable[..., CommandResult], cohort: Path, tmp_path: Path, setting: str, words: str
):
    found = parfocal("train", cohort, "--out", tmp_path / "run", "--set", setting)
    assert_refused(found, words, code=2)


def test_a_full_disk_is_reported_in_one_line(
    parfocal: Callable[..., CommandResult],
    run: Path,
    slide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def full(path: Path, content: bytes) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC), str(path))

    monkeypatch.setattr(predict_module, "write_whole", full)
    found = parfocal("predict", run, slide, "--out", tmp_path / "out")
    assert_refused(found, "the disk is full", str(tmp_path / "out"))
    message = "a.h5: could not be written (No space left on device). Free space."

    def unwritable(path: Path, content: bytes) -> None:
        raise UnwritableError(message)

    monkeypatch.setattr(predict_module, "write_whole", unwritable)
    assert_refused(parfocal("predict", run, slide, "--out", tmp_path / "out"), message)


@pytest.mark.parametrize("mpp", ["0", "51"])
def test_an_mpp_that_no_microscope_has_is_refused_by_inspect(
    parfocal: Callable[..., CommandResult], cohort: Path, mpp: str
):
    found = parfocal("inspect", cohort.parent / "006.tif", "--mpp", mpp)
    assert_refused(found, f"--mpp: {mpp} is outside 0.05 to 50 microns per pixel", code=2)
