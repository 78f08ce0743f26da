"""Every subcommand, and what it says when something is wrong: one line, and no traceback."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from outcome import Outcome
from parfocal import predict as predict_module
from parfocal import train as training
from parfocal.cli import main
from parfocal.features.errors import UnwritableError
from parfocal.models.checkpoint import Checkpoint
from parfocal.settings import recipe_names
from parfocal.slide import synthetic
from parfocal.slide.painting import OF_TILES, Painting
from parfocal.train.folder import RunSummary

SLIDES = 12
TINY = ("--encoder", "tiny", "--magnifications", "2.5,10")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    """Slides of two classes with leading zeros in their names, split by the CSV."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number in range(SLIDES):
        dark, path = number % 2 == 1, folder / f"{number:03}.tif"
        write_slide(path, dark=dark, seed=number)
        split = ("train", "train", "val", "test")[number // 2 % 4]
        rows.append((f"{number:03}", path.name, "tumor" if dark else "normal", split))
    return write_table(folder / "cohort.csv", ("slide_id", "path", "label", "split"), *rows)


def write_table(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cohort: Path) -> Path:
    """A run, trained in a process of its own as a user would."""
    out = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-m", "parfocal.cli", "train", str(cohort), "--out", str(out), *TINY]
    settings = ["--set", "slide.patch_size=64", "--set", "model.k=2", "--epochs", "2"]
    subprocess.run([*command, *settings, "--device", "cpu"], check=True, capture_output=True)
    return out


@pytest.fixture
def slide(tmp_path: Path, write_slide: Callable[..., Path]) -> Path:
    return write_slide(tmp_path / "one.tif")


def test_help_tells_of_every_command(parfocal: Callable[..., Outcome]):
    said = parfocal("--help").out
    for command in ("demo", "inspect", "synth", "extract", "train", "evaluate", "predict"):
        assert command in said
        assert "Example: parfocal" in parfocal(command, "--help").out


def test_every_recipe_is_listed_with_what_it_is(parfocal: Callable[..., Outcome]):
    lines = parfocal("recipes").out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert "zoommil-eff        ZoomMIL-Eff, the two-level variant of the paper: a" in lines[-3]


def test_the_version_is_told(parfocal: Callable[..., Outcome]):
    assert parfocal("--version") == Outcome(0, "parfocal 0.1.0\n", "")


def test_inspect_reads_a_slide_to_a_person(parfocal: Callable[..., Outcome], slide: Path):
    found = parfocal("inspect", slide)
    assert found.code == 0
    assert "1024 x 1024 px" in found.out
    assert "1 um/px" in found.out


def test_inspect_gives_json_and_goes_on_after_a_failure(
    parfocal: Callable[..., Outcome], slide: Path, tmp_path: Path
):
    found = parfocal("inspect", tmp_path / "none.svs", slide, "--json")
    assert found.code == 1
    assert [report["id"] for report in json.loads(found.out)] == ["one"]
    assert "1 of 2 slides failed" in found.err
    assert "none.svs" in found.err


def test_synth_paints_slides_and_their_table(parfocal: Callable[..., Outcome], tmp_path: Path):
    found = parfocal("synth", tmp_path / "new", "--slides", 4, "--seed", 1, "--size", 2048)
    assert found.code == 0
    with (tmp_path / "new" / "cohort.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"normal", "tumor"}
    assert all((tmp_path / "new" / row["path"]).exists() for row in rows)


@pytest.mark.parametrize(
    ("options", "painting"),
    [
        ((), Painting()),
        (("--lesions", 6, "--lesion-um", 300), Painting(regions=6, lesions=6, lesion_um=300)),
        (
            ("--tiles", "t", "--normal-class", "N", "--lesion-class", "L"),
            replace(OF_TILES, normal_class="N", lesion_class="L"),
        ),
        (
            ("--tiles", "t", "--lesions", 2, "--lesion-um", 300),
            Painting(regions=2, lesions=2, lesion_um=300),
        ),
    ],
)
def test_synth_paints_what_is_asked_for(
    parfocal: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str | int, ...],
    painting: Painting,
):
    asked: dict[str, object] = {}
    monkeypatch.setattr(synthetic, "paint_cohort", lambda out, **given: asked.update(given))
    command = ("synth", "new", "--slides", 4, "--seed", 1, "--mpp", 0.5, *options)
    assert parfocal(*command).code == 0
    assert asked["painting"] == painting
    assert asked["mpp"] == 0.5


def test_synth_refuses_classes_of_no_tiles(parfocal: Callable[..., Outcome]):
    command = ("synth", "new", "--slides", 4, "--seed", 1, "--lesion-class", "AC")
    refused(parfocal(*command), "give tiles, too")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, cohort: Path) -> Path:
    """Features of the cohort, extracted in a process of its own."""
    folder = tmp_path_factory.mktemp("features")
    command = [sys.executable, "-m", "parfocal.cli", "extract", str(cohort), "--out", str(folder)]
    done = subprocess.run(
        [*command, *TINY, "--patch-size", "64"], check=True, capture_output=True, text=True
    )
    assert done.stdout == f"{SLIDES} slides extracted, 0 were there already\n"
    return folder


@pytest.fixture
def features(extracted: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(extracted, tmp_path / "features"))


def test_extract_stores_features_once(
    parfocal: Callable[..., Outcome], cohort: Path, extracted: Path
):
    assert len(list(extracted.glob("*.h5"))) == SLIDES
    command = ("extract", cohort, "--out", extracted, *TINY, "--patch-size", 64)
    assert parfocal(*command).out == f"0 slides extracted, {SLIDES} were there already\n"


def test_extract_needs_no_labels(parfocal: Callable[..., Outcome], cohort: Path, tmp_path: Path):
    row = ("001", str(cohort.parent / "001.tif"))
    table = write_table(tmp_path / "slides.csv", ("slide_id", "path"), row)
    found = parfocal("extract", table, "--out", tmp_path / "features", *TINY, "--patch-size", 64)
    assert found.out == "1 slides extracted, 0 were there already\n"


def test_features_of_other_tissue_settings_can_be_made_and_learned_from(
    parfocal: Callable[..., Outcome], cohort: Path, tmp_path: Path
):
    out, told = tmp_path / "features", ("--patch-size", 64, "--tissue", "grey", "--min-tissue", 0.5)
    assert parfocal("extract", cohort, "--out", out, *TINY, *told).code == 0
    command = ("train", cohort, "--out", tmp_path / "run", "--features", out, *TINY, "--epochs", 1)
    command += ("--set", "slide.patch_size=64", "--set", "model.k=2", "--set", "slide.tissue=grey")
    refused(parfocal(*command), "min_tissue 0.5, and now it is 0.1")
    assert parfocal(*command, "--set", "slide.min_tissue=0.5").code == 0


def test_weights_of_the_encoder_may_be_a_file(
    parfocal: Callable[..., Outcome], cohort: Path, tmp_path: Path
):
    out, file = tmp_path / "features", tmp_path / "none.pth"
    found = parfocal("extract", cohort, "--out", out, *TINY[2:], "--weights", file)
    refused(found, "none.pth: no such weights file")


def test_failures_of_one_reason_are_listed_together_and_once(
    parfocal: Callable[..., Outcome], tmp_path: Path
):
    rows = [("a", "a.svs"), ("b", "b.svs"), ("c", "other.svs")]
    for _, name in rows:
        (tmp_path / name).write_bytes(b"")
    table = write_table(tmp_path / "slides.csv", ("slide_id", "path"), *rows)
    found = parfocal("extract", table, "--out", tmp_path / "features", *TINY)
    assert found.err.count("the file is empty") == 2
    why = "the file is empty (0 bytes); copy it again from its source."
    assert [line.removeprefix("parfocal: ") for line in found.err.splitlines()[-3:]] == [
        "3 of 3 slides failed:",
        f"{tmp_path / 'a.svs'}, {tmp_path / 'b.svs'}: {why}",
        f"c: {tmp_path / 'other.svs'}: {why}",
    ]


def test_a_failed_slide_is_listed_by_its_name_in_the_cohort(
    parfocal: Callable[..., Outcome], tmp_path: Path
):
    (tmp_path / "scan.svs").write_bytes(b"no slide")
    table = write_table(tmp_path / "slides.csv", ("slide_id", "path"), ("P-17", "scan.svs"))
    found = parfocal("extract", table, "--out", tmp_path / "features", *TINY)
    assert found.err.splitlines()[-1].startswith("parfocal: P-17: scan.svs: not a slide")


def test_training_folds_tells_where_they_are(
    parfocal: Callable[..., Outcome], cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one = RunSummary(tmp_path / "fold-0", 3, 5, 0.4, 0.75, None, 0, 1.0)
    folds = (one, replace(one, out=tmp_path / "fold-1"))
    whole = replace(one, out=tmp_path, best_epoch=None, folds=folds)
    monkeypatch.setattr(training, "train", lambda *_, **__: whole)
    assert parfocal("train", cohort, "--out", tmp_path).out == (
        f"{tmp_path}: 2 folds, mean weighted F1 0.750 on the validation slides; now "
        f"`parfocal evaluate {tmp_path}/fold-0 {cohort} --out DIR`, likewise fold-1\n"
    )
    monkeypatch.setattr(training, "train", lambda *_, **__: one)
    assert "x: epoch 3 was best, weighted F1" in parfocal("train", cohort, "--out", "x").out


def test_each_fold_is_a_run_that_evaluates_and_predicts(
    parfocal: Callable[..., Outcome], cohort: Path, extracted: Path, slide: Path, tmp_path: Path
):
    with cohort.open(newline="") as file:
        rows = [(row["slide_id"], row["path"], row["label"]) for row in csv.DictReader(file)]
    table = cohort.with_name("unsplit.csv")
    write_table(table, ("slide_id", "path", "label"), *rows)
    run, stored = tmp_path / "run", ("--features", extracted)
    command = ("train", table, "--out", run, *stored, *TINY, "--set", "slide.patch_size=64")
    told = parfocal(*command, "--set", "model.k=2", "--epochs", 1, "--folds", 3)
    assert f"{run}: 3 folds, mean weighted F1" in told.out
    tested = []
    for fold in ("fold-0", "fold-1", "fold-2"):
        out = tmp_path / "evaluation" / fold
        assert parfocal("evaluate", run / fold, table, "--out", out, *stored).code == 0
        with (out / "predictions.csv").open(newline="") as file:
            tested += [row["slide_id"] for row in csv.DictReader(file)]
    assert sorted(tested) == [slide_id for slide_id, _, _ in rows]
    page = tmp_path / "report.html"
    assert parfocal("report", run, tmp_path / "evaluation", "--out", page).code == 0
    for fold in ("fold-0", "fold-1", "fold-2"):
        assert f"Training: {fold}" in page.read_text()
        assert f"Evaluation: {fold}" in page.read_text()
    assert parfocal("predict", run / "fold-2", slide, "--out", tmp_path / "out").code == 0
    refused(parfocal("predict", run, slide, "--out", tmp_path / "out"), "a run of 3 folds; give")


def test_a_run_holds_all_that_prediction_needs(run: Path):
    trained = Checkpoint.load(run)
    assert trained.magnifications == (2.5, 10.0)
    assert trained.patch_size == 64
    assert trained.labels == ("normal", "tumor")


def test_evaluate_writes_metrics_of_the_test_slides(
    parfocal: Callable[..., Outcome], run: Path, cohort: Path, tmp_path: Path
):
    found = parfocal("evaluate", run, cohort, "--out", tmp_path)
    assert found.code == 0
    assert "AUROC" in found.out
    with (tmp_path / "predictions.csv").open(newline="") as file:
        assert {row["slide_id"] for row in csv.DictReader(file)} == {"006", "007"}
    assert json.loads((tmp_path / "metrics.json").read_text())["split"] == "test"


def test_predict_says_a_line_a_slide_with_its_bill(
    parfocal: Callable[..., Outcome], run: Path, slide: Path, tmp_path: Path
):
    found = parfocal("predict", run, slide, "--out", tmp_path / "out")
    assert found.code == 0
    assert found.out.count("\n") == 1
    assert found.err.endswith(f"see {tmp_path / 'out'}\n")
    assert "looked at 40 of 128 patches (31.2%)" in found.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("one.json", "one.png", "predictions.csv")
    }


def test_predict_goes_on_and_lists_what_failed_at_the_end(
    parfocal: Callable[..., Outcome], run: Path, slide: Path, tmp_path: Path
):
    found = parfocal("predict", run, tmp_path / "none.svs", slide, "--out", tmp_path / "out")
    assert found.code == 1
    assert found.out.startswith("one: ")
    assert found.err.splitlines()[-2] == "parfocal: 1 of 2 slides failed:"
    assert "none.svs: there is no such file" in found.err.splitlines()[-1]


# What is wrong with a slide, and what its line has to say.


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
    ("spoil", "words"),
    [
        (Path.unlink, "no such file"),
        (not_a_slide, "not a slide"),
        (truncated, "one"),
        (damaged, "one"),
        (without_mpp, "no microns per pixel, so its magnification is unknown. Give it with --mpp"),
        (absurd, "outside 0.05 to 50"),
        (blank, "tissue"),
        (small, "0.78 x 0.78 of a patch at 2.5x"),
        (small, "the model looks at 2.5x, 10x and at no other"),
        (coarse, "10x (1 um/px) is sharper than the scan, which is 2.5x"),
        (coarse, "leave the slide out"),
        (a_folder, "a folder, and no DICOM slide is in it; give slide files"),
    ],
)
def test_a_bad_slide_is_refused_in_a_line(
    parfocal: Callable[..., Outcome],
    run: Path,
    slide: Path,
    *,
    spoil: Callable[[Path], None],
    words: str,
):
    out = slide.parent / "out"
    spoil(slide)
    found = parfocal("predict", run, slide, "--out", out)
    assert found.code == 1
    assert found.out == ""
    assert found.err.startswith("parfocal: ")
    assert found.err.count("\n") == 1
    assert "one" in found.err
    assert words in found.err
    assert {path.name for path in out.iterdir()} == {"predictions.csv"}


def test_the_folder_one_is_in_is_named_as_it_was_given(
    parfocal: Callable[..., Outcome], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    refused(parfocal("inspect", "."), "parfocal: .: a folder, and no DICOM slide")
    refused(parfocal("predict", run, ".", "--out", "out"), "parfocal: .: a folder, and no DICOM")


# What is wrong with a cohort, a folder or a setting, and what the line has to say.

GOOD = ("001", "001.tif", "tumor")
MISSING = ((*GOOD, "train"), ("2", "none.tif", "normal", "train"), ("3", "001.tif", "tumor", "val"))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("slide_id", "path"), GOOD[:2]], "label"),
        ([("slide_id", "path", "label"), GOOD, GOOD], "001"),
        ([("slide_id", "path", "label"), GOOD], "every slide is labelled 'tumor'"),
        ([("slide_id", "path", "label", "split"), *MISSING], "none.tif (row 3)"),
        ([("slide_id", "path", "label")], "no slides"),
    ],
)
def test_a_bad_cohort_is_refused_in_a_line(
    parfocal: Callable[..., Outcome],
    cohort: Path,
    tmp_path: Path,
    rows: list[tuple[str, ...]],
    words: str,
):
    shutil.copy(cohort.parent / "001.tif", tmp_path)
    table = write_table(tmp_path / "bad.csv", *rows)
    refused(parfocal("train", table, "--out", tmp_path / "run", *TINY), words, "bad.csv")
    assert not (tmp_path / "run").exists()


def refused(found: Outcome, *words: str) -> None:
    """Check that a command failed with one line that says all this."""
    assert found.code == 1
    assert found.err.startswith("parfocal: ")
    assert found.err.count("\n") == 1, found.err
    for word in words:
        assert word in found.err


def test_a_label_the_model_does_not_know_is_refused(
    parfocal: Callable[..., Outcome], run: Path, cohort: Path, tmp_path: Path
):
    table = write_table(
        tmp_path / "other.csv",
        ("slide_id", "path", "label"),
        ("006", str(cohort.parent / "006.tif"), "benign"),
    )
    found = parfocal("evaluate", run, table, "--out", tmp_path / "out")
    refused(found, "other.csv", "'benign'", "normal, tumor")


def test_a_slide_too_small_to_train_on_is_told_with_the_option_that_helps(
    parfocal: Callable[..., Outcome], cohort: Path, tmp_path: Path
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
    refused(parfocal(*command), "0.25 x 0.25 of a patch at 0.625x", "use higher --magnifications")


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
def test_a_file_is_no_folder_to_write_to(
    parfocal: Callable[..., Outcome], tmp_path: Path, command: tuple[str | int, ...]
):
    (tmp_path / "cohort.csv").touch()
    for place in (tmp_path / "cohort.csv", tmp_path / "cohort.csv" / "new"):
        refused(parfocal(*command, place), "cohort.csv: a file, where a folder is to be; write els")


@pytest.mark.parametrize("command", WRITE_FILES)
def test_a_folder_is_no_file_to_write_to(
    parfocal: Callable[..., Outcome], tmp_path: Path, command: tuple[str, ...]
):
    refused(parfocal(*command, tmp_path), f"{tmp_path}: a folder, where a file is to be; give a f")


@pytest.mark.parametrize("command", [*WRITE_FOLDERS, *WRITE_FILES])
def test_a_place_that_may_not_be_written_to_is_refused_before_any_work(
    parfocal: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str | int, ...],
):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    found = parfocal(*command, tmp_path / "new" / "out")
    refused(found, f"{tmp_path}: Permission denied; check the path, and its rights.")
    assert not (tmp_path / "new").exists()


def test_folders_to_write_to_are_made(parfocal: Callable[..., Outcome], run: Path, tmp_path: Path):
    page = tmp_path / "new" / "folder" / "report.html"
    assert parfocal("report", run, "--out", page).code == 0
    assert page.exists()


def test_training_slides_are_not_evaluated_unless_told(
    parfocal: Callable[..., Outcome], run: Path, cohort: Path, tmp_path: Path
):
    command = ("evaluate", run, cohort, "--out", tmp_path, "--split", "train")
    refused(parfocal(*command), "--allow-training-slides")
    assert parfocal(*command, "--allow-training-slides").code == 0


def test_a_run_folder_that_exists_is_refused(
    parfocal: Callable[..., Outcome], run: Path, cohort: Path
):
    refused(parfocal("train", cohort, "--out", run, *TINY), str(run), "--resume")


def test_a_checkpoint_of_a_newer_version_is_refused(
    parfocal: Callable[..., Outcome], run: Path, slide: Path, tmp_path: Path
):
    shutil.copytree(run, tmp_path / "newer")
    path = tmp_path / "newer" / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    found = parfocal("predict", tmp_path / "newer", slide, "--out", tmp_path / "out")
    refused(found, "checkpoint.json", "99", "Update parfocal")


def test_a_folder_that_is_no_run_is_refused(
    parfocal: Callable[..., Outcome], slide: Path, tmp_path: Path
):
    refused(parfocal("predict", tmp_path, slide, "--out", tmp_path / "out"), "checkpoint.json")


def test_features_of_another_encoder_are_refused(
    parfocal: Callable[..., Outcome], cohort: Path, features: Path, tmp_path: Path
):
    with h5py.File(features / "000.h5", "r+") as file:
        file.attrs["encoder_name"] = "resnet50-layer3"
    command = ("train", cohort, "--out", tmp_path / "run", "--features", features)
    found = parfocal(*command, *TINY, "--set", "slide.patch_size=64")
    refused(found, "features", "resnet50-layer3", "tiny")


def test_features_of_a_newer_format_are_refused(
    parfocal: Callable[..., Outcome], run: Path, cohort: Path, features: Path, tmp_path: Path
):
    for path in features.iterdir():
        with h5py.File(path, "r+") as file:
            file.attrs["format_version"] = 99
    out = tmp_path / "evaluation"
    found = parfocal("evaluate", run, cohort, "--out", out, "--features", features)
    assert found.code == 1
    assert "99" in found.err
    assert "006.h5" in found.err


def test_magnifications_that_are_no_numbers_are_wrong_usage(
    parfocal: Callable[..., Outcome], cohort: Path, tmp_path: Path
):
    found = parfocal("extract", cohort, "--out", tmp_path, "--magnifications", "low,high")
    assert found.code == 2
    assert "1.25,2.5,10" in found.err


def test_features_of_magnifications_that_do_not_ascend_are_refused(
    parfocal: Callable[..., Outcome], cohort: Path, tmp_path: Path
):
    out = tmp_path / "features"
    found = parfocal("extract", cohort, "--out", out, "--magnifications", "10,2.5")
    refused(found, "magnifications: [10, 2.5] do not ascend; give the lowest first")
    assert not out.exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.epoch=3", "known: epochs"),
        ("trian.epochs=3", "known: slide, encoder, model, train"),
        ("train.epochs=many", "many"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_known_ones(
    parfocal: Callable[..., Outcome], cohort: Path, tmp_path: Path, setting: str, words: str
):
    found = parfocal("train", cohort, "--out", tmp_path / "run", "--set", setting)
    refused(found, words)


def test_a_full_disk_is_told_in_a_line(
    parfocal: Callable[..., Outcome],
    run: Path,
    slide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def full(path: Path, content: bytes) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC), str(path))

    monkeypatch.setattr(predict_module, "write_whole", full)
    found = parfocal("predict", run, slide, "--out", tmp_path / "out")
    refused(found, "the disk is full", str(tmp_path / "out"))
    message = "a.h5: could not be written (No space left on device). Free space."

    def told(path: Path, content: bytes) -> None:
        raise UnwritableError(message)

    monkeypatch.setattr(predict_module, "write_whole", told)
    refused(parfocal("predict", run, slide, "--out", tmp_path / "out"), message)


def test_an_unexpected_error_is_a_line_and_with_debug_a_traceback(
    parfocal: Callable[..., Outcome], run: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object, **__: object) -> Iterator[object]:
        raise TypeError("a\nbug")

    monkeypatch.setattr(predict_module, "predict_slides", broken)
    refused(parfocal("predict", run, slide, "--out", "x"), "unexpected TypeError: a bug", "--debug")
    monkeypatch.setattr(
        sys, "argv", ["parfocal", "predict", str(run), "s", "--out", "x", "--debug"]
    )
    with pytest.raises(TypeError):
        main()


def test_ctrl_c_leaves_a_line_and_what_was_finished(cohort: Path, tmp_path: Path):
    out = tmp_path / "run"
    # A shell starts what runs in the background with Ctrl-C ignored, and children inherit it.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from parfocal.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "train", str(cohort), "--out", str(out), *TINY]
    settings = ["--set", "slide.patch_size=64", "--set", "train.patience=10000"]
    settings += ["--epochs", "10000"]
    with subprocess.Popen(
        [*command, *settings], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while not (out / "metrics.csv").exists() and process.poll() is None:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    goes_on = "the same command with --resume goes on from there"
    said_last = f"parfocal: interrupted; what was finished is in {out}; {goes_on}."
    assert said.splitlines()[-1] == said_last
    assert (out / "metrics.csv").exists()
    assert not (out / "checkpoint.json").exists()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (False, "nothing was written to {}."),
        (True, "what was finished is in {}."),
    ],
)
def test_ctrl_c_claims_only_what_is_there(
    parfocal: Callable[..., Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    written: bool,
    told: str,
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "before.json").touch()
    os.utime(out / "before.json", (0, 0))

    def interrupted(*_: object, **__: object) -> Checkpoint:
        if written:
            (out / "one.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "load", interrupted)
    found = parfocal("predict", "run", "one.tif", "--out", out)
    assert found == Outcome(130, "", f"parfocal: interrupted; {told.format(out)}\n")


def test_a_command_that_writes_nothing_says_so_upon_ctrl_c(
    parfocal: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("parfocal.slide.inspect.inspect", interrupted)
    assert parfocal("inspect", "one.tif").err == "parfocal: interrupted; nothing was written.\n"


def test_a_reader_that_leaves_is_no_error(slide: Path):
    command = f"{sys.executable} -m parfocal.cli inspect {slide} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
