"""A lab with features by TRIDENT trains, evaluates, compares and views with the usual commands."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from command_result import CommandResult
from foreign_layouts import write_clam
from parfocal.encoders.loading import load_encoder
from parfocal.explain.read_record import read_prediction
from parfocal.explain.record_parts import Region
from parfocal.features.extract import extract_cohort
from parfocal.features.foreign.trident_writer import TridentLayout
from parfocal.features.header import SlideSettings
from parfocal.models.checkpoint import Checkpoint
from small import SLIDES

Command = Callable[..., CommandResult]
QUICK = ("--set", "model.k=2", "--epochs", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, cohort: Path) -> Path:
    """Features of the cohort in TRIDENT's layout."""
    out = tmp_path_factory.mktemp("trident") / "job"
    result = extract_cohort(
        [(f"{number:03}", cohort.parent / f"{number:03}.tif", None) for number in range(SLIDES)],
        out,
        encoder=load_encoder("tiny"),
        settings=SlideSettings((2.5, 10.0), 64),
        layout=TridentLayout(out),
    )
    assert not result.failed
    return out


@pytest.fixture
def given(job: Path) -> str:
    """The option: one folder for each magnification."""
    grids = {"2.5": "2.5x_64px_0px_overlap", "10": "10x_64px_0px_overlap"}
    return ",".join(f"{name}={job / grid / 'features_tiny'}" for name, grid in grids.items())


@pytest.fixture
def clam(job: Path, tmp_path: Path) -> Path:
    """The same features at 10x as CLAM would have written them."""
    out = tmp_path / "clam"
    for path in (job / "10x_64px_0px_overlap" / "features_tiny").glob("*.h5"):
        with h5py.File(path) as file:
            geometry, corners = dict(file["coords"].attrs), file["coords"][:]
            features = file["features"][:]
        downsample = float(geometry["patch_size_level0"]) / 64
        write_clam(out, path.stem, corners, features, patch_size=64, downsample=downsample)
        size = [geometry["level0_width"] / downsample, geometry["level0_height"] / downsample]
        with h5py.File(out / "patches" / path.name, "r+") as file:
            file["coords"].attrs["level_dim"] = size
    return out


def renamed(job: Path, out: Path, encoder: str) -> Path:
    """Return a copy of the features at 10x by an encoder of another name."""
    folder = job / "10x_64px_0px_overlap" / "features_tiny"
    moved = out / "10x_64px_0px_overlap" / "features_own"
    moved.mkdir(parents=True)
    for path in folder.glob("*.h5"):
        (moved / path.name).write_bytes(path.read_bytes())
        with h5py.File(moved / path.name, "r+") as file:
            file["features"].attrs["encoder"] = encoder
    return moved


def place_of(region: Region) -> tuple[object, ...]:
    """Return which patch a region is, and where it lies."""
    return (region.step, region.x, region.y, region.width, region.mpp, region.selected)


def test_train_evaluate_predict_and_view(
    parfocal: Command, cohort: Path, given: str, tmp_path: Path
):
    run, slide = tmp_path / "run", cohort.parent / "006.tif"
    trained = parfocal("train", cohort, "--features", given, "--out", run, *QUICK)
    assert trained.code == 0, trained.err
    assert f"--features {given} --device cpu --out evaluation" in trained.err
    checkpoint = Checkpoint.load(run)
    assert checkpoint.training.feature_tool == "TRIDENT"
    assert checkpoint.training.feature_mpps == {"2.5": [4, 4, 4], "10": [1, 1, 1]}
    evaluated = parfocal(
        "evaluate", run, cohort, "--features", given, "--out", tmp_path / "evaluation"
    )
    assert evaluated.code == 0, evaluated.err
    cost = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["cost"]
    # Of the visited patches, by the encoder that the features name.
    assert cost["encoding_macs"] == [877_500 * step["mean"] for step in cost["patches"]]
    stored, live = tmp_path / "stored", tmp_path / "live"
    made = parfocal("predict", run, slide, "--features", given, "--geojson", "--out", stored)
    assert made.code == 0, made.err
    assert parfocal("predict", run, slide, "--out", live).code == 0
    first, second = (read_prediction(folder / "006.json") for folder in (stored, live))
    # The same patches of the same slide, encoded by the encoder that the features name.
    assert first.probabilities == pytest.approx(second.probabilities, abs=1e-3)
    assert [place_of(region) for region in first.regions] == [
        place_of(region) for region in second.regions
    ]
    assert sum(first.cost.patches) == sum(second.cost.patches)
    assert f"({100 * first.cost.share_patches:.1f}%), no pixels read, nothing encoded" in made.out
    assert first.cost.pixels_decoded < second.cost.pixels_decoded
    assert (stored / "006.png").exists()
    shapes = json.loads((stored / "006.geojson").read_text())["features"]
    assert shapes
    assert parfocal("report", stored, "--out", tmp_path / "page.html").code == 0


@pytest.mark.slow
def test_compare_on_features_of_trident(
    parfocal: Command, cohort: Path, given: str, tmp_path: Path
):
    result = parfocal(
        "compare",
        cohort,
        "--models",
        "zoommil,abmil",
        "--features",
        given,
        "--epochs",
        "1",
        "--out",
        tmp_path / "comparison",
        "--device",
        "cpu",
        "--timed-slides",
        "0",
    )
    assert result.code == 0, result.err
    assert "zoommil" in result.out
    assert "abmil" in result.out


def test_a_run_without_its_folders_says_which_it_needs(
    parfocal: Command, cohort: Path, job: Path, given: str, tmp_path: Path
):
    run, one = tmp_path / "run", job / "10x_64px_0px_overlap" / "features_tiny"
    assert parfocal("train", cohort, "--features", given, "--out", run, *QUICK).code == 0
    options = ("--features", one, "--out", tmp_path / "evaluation")
    for refused in (
        parfocal("evaluate", run, cohort, *options),
        parfocal("predict", run, cohort.parent / "006.tif", *options),
    ):
        assert refused.code == 1
        assert refused.err.endswith(
            "features_tiny: the features are of 10x, and the run needs 2.5x and 10x. Give "
            "--features 2.5=DIR,10=DIR.\n"
        )


def test_features_of_clam_take_the_magnification_of_the_slide_or_of_the_run(
    parfocal: Command, cohort: Path, clam: Path, tmp_path: Path, caplog
):
    run, options = tmp_path / "run", ("--model", "abmil", "--epochs", "1", "--device", "cpu")
    refused = parfocal("train", cohort, "--features", f"20={clam}", "--out", run, *options)
    assert refused.code == 1
    assert f"means 10x. Write 10={clam / 'h5_files'}" in refused.err
    unnamed = "their encoder is not named; train with --encoder NAME to name it"
    trained = parfocal("train", cohort, "--features", clam, "--out", run, *options)
    assert trained.code == 0, trained.err
    assert unnamed in caplog.text
    assert "`parfocal features --values` checks all" in caplog.text
    slide = cohort.parent / "006.tif"
    made = parfocal("predict", run, slide, "--features", clam, "--out", tmp_path / "predictions")
    assert made.code == 0, made.err
    refused = parfocal("predict", run, slide, "--out", tmp_path / "live")
    assert refused.code == 1
    assert unnamed in refused.err
    pushed = parfocal("push", run, tmp_path / "published")
    assert pushed.code == 0, pushed.err
    assert f"slide files cannot be predicted with this model: {unnamed}" in pushed.out
    assert unnamed in (tmp_path / "published" / "README.md").read_text()


def test_features_of_another_width_than_the_encoder_are_warned_of(
    parfocal: Command, cohort: Path, job: Path, tmp_path: Path, caplog
):
    folder, run = renamed(job, tmp_path, "uni_v2"), tmp_path / "run"
    problem = "encoder uni2-h gives 1,536 or 3,072 features per patch, and these have 32"
    described = parfocal("features", folder)
    assert described.code == 0
    assert problem in described.out
    trained = parfocal(
        *("train", cohort, "--model", "abmil", "--features", folder, "--epochs", "1"),
        *("--device", "cpu", "--out", run),
    )
    assert trained.code == 0
    assert problem in caplog.text
    refused = parfocal("predict", run, cohort.parent / "006.tif", "--out", tmp_path / "live")
    assert refused.code == 1
    assert problem in refused.err
    assert "does not have" not in refused.err


@pytest.mark.slow
def test_compare_says_once_what_the_features_are_and_lack(
    parfocal: Command, cohort: Path, job: Path, tmp_path: Path, caplog
):
    folder = renamed(job, tmp_path, "our-own")
    result = parfocal(
        *("compare", cohort, "--models", "abmil,dsmil", "--features", folder, "--epochs", "1"),
        *("--out", tmp_path / "comparison", "--device", "cpu"),
    )
    assert result.code == 0, result.err
    for text in ("features by TRIDENT", "no MACs and no seconds per slide", "Slide files cannot"):
        assert caplog.text.count(text) == 1, text


def test_a_run_on_features_of_an_unknown_encoder_says_what_to_do(
    parfocal: Command, cohort: Path, job: Path, tmp_path: Path
):
    moved = renamed(job, tmp_path, "our-own")
    run = tmp_path / "run"
    options = ("--model", "abmil", "--features", moved, "--epochs", "1", "--out", run)
    assert parfocal("train", cohort, *options).code == 0
    slide = cohort.parent / "006.tif"
    failed = parfocal("predict", run, slide, "--out", tmp_path / "predictions")
    assert failed.code == 1
    assert (
        "the model was trained on features that another tool made, and parfocal does not have "
        "their encoder, our-own. Extract the features of these slides with that tool, and give "
        "them with --features." in failed.err
    )
    options = ("--features", moved, "--out", tmp_path / "predictions")
    assert parfocal("predict", run, slide, *options).code == 0
    refused = parfocal(
        "train",
        cohort,
        "--features",
        moved,
        "--encoder",
        "uni2-h",
        "--out",
        tmp_path / "other",
        "--model",
        "abmil",
    )
    assert refused.code == 1
    assert "made by our-own, and --encoder names uni2-h" in refused.err
