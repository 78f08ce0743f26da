"""Four models on a painted cohort, one of which fails; one slide has no tissue."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.compare import ComparisonError, ComparisonRow, compare, load_candidates
from parfocal.cost import CostMeter
from parfocal.encoders.loading import load_encoder
from parfocal.features.store import FeatureFile
from parfocal.models import ABMIL, CLAM, ZoomMIL

MODELS = ("zoommil", "abmil", "dsmil-multiscale", "clam-sb")
SLIDES = 12


def run(cohort: Path, out: Path, **options: object) -> list[ComparisonRow]:
    overrides = ["slide.patch_size=64", "zoommil:model.k=2", "zoommil:slide.magnifications=2.5,10"]
    candidates = load_candidates(MODELS, overrides=overrides, epochs=1, encoder="tiny")
    settings = {"device": "cpu", "timed": 1, "resamples": 50, "skip_unreadable": True}
    return compare(cohort, candidates, out, **{**settings, **options})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    rows = []
    for number in range(SLIDES):
        write_slide(folder / f"{number}.tif", dark=number % 2 == 1, seed=number)
        split = ("train", "train", "val", "test")[number // 2 % 4]
        rows.append((str(number), f"{number}.tif", ("normal", "tumor")[number % 2], split))
    blank = np.full((1024, 1024, 3), 245, dtype=np.uint8)
    write_slide(folder / "blank.tif", blank)
    rows.append(("blank", "blank.tif", "tumor", "test"))
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("slide_id", "path", "label", "split"), *rows])
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def compared(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[ComparisonRow], Path]:
    def broken(self: CLAM, bag: StoredBag) -> None:
        raise RuntimeError("CLAM is\nbroken")

    out = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CLAM, "forward", broken)
        return run(cohort, out), out


def test_each_model_has_a_row(compared: tuple[list[ComparisonRow], Path]):
    rows, out = compared
    assert [row.result.name for row in rows] == list(MODELS)
    for row in rows[:3]:
        assert row.result.macs > 0
        assert row.result.seconds["cpu"]["total"] > 0
        assert 0 <= row.scores["auroc_macro"].value <= 1
    with (out / "results.csv").open() as file:
        assert [row["model"] for row in csv.DictReader(file)] == list(MODELS)
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "<h2>Accuracy against cost</h2>" in (out / "report.html").read_text()


def test_a_model_that_fails_does_not_stop_the_others(compared: tuple[list[ComparisonRow], Path]):
    rows, out = compared
    assert rows[3].result.reason == "RuntimeError: CLAM is broken"
    assert "- clam-sb failed: RuntimeError: CLAM is broken" in (out / "results.md").read_text()


def test_a_slide_without_tissue_is_counted_as_failed(compared: tuple[list[ComparisonRow], Path]):
    rows, out = compared
    for row in rows[:3]:
        assert row.result.failed == 1
        assert len(row.result.runs[0].truth) == 2
    assert "- abmil: 1 test slides without a prediction" in (out / "results.md").read_text()


def test_features_are_extracted_once_for_all_models(compared: tuple[list[ComparisonRow], Path]):
    _, out = compared
    files = sorted((out / "features").rglob("*.h5"))
    assert len(files) == SLIDES
    assert {file.parent.name for file in files} == {"tiny"}
    assert FeatureFile(files[0]).magnifications == (2.5, 10)


def test_a_comparison_without_usable_slides_is_refused(cohort: Path, tmp_path: Path):
    candidates = load_candidates(["mean"], overrides=["slide.magnifications=[40]"], encoder="tiny")
    with pytest.raises(
        ComparisonError,
        match=rf"cohort\.csv: {SLIDES + 1} of {SLIDES + 1} slides cannot be read \(",
    ):
        compare(cohort, candidates, tmp_path, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("names", [["mean"], ["meanrgb"]])
def test_slides_that_cannot_be_read_are_named_before_any_training(
    cohort: Path, tmp_path: Path, names: list[str]
):
    folder = Path(shutil.copytree(cohort.parent, tmp_path / "slides"))
    bad = folder / "0.tif"
    bad.write_bytes(b"no slide")
    table = folder / cohort.name
    overrides = ["slide.patch_size=64"]
    candidates = load_candidates(names, overrides=overrides, encoder="tiny", epochs=1)
    message = rf"cohort\.csv: 2 of {SLIDES + 1} slides cannot be read \(0\.tif: .*--skip-unreadable"
    with pytest.raises(ComparisonError, match=message):
        compare(table, candidates, tmp_path / "out", device="cpu", timed=0)
    assert not list((tmp_path / "out").rglob("metrics.csv"))
    options = {"device": "cpu", "timed": 0, "skip_unreadable": True, "resamples": 9}
    (row,) = compare(table, candidates, tmp_path / "out", **options)
    assert row.result.reason is None
    assert f"- {bad.stem}: " in (tmp_path / "out" / "results.md").read_text()
    assert f"{bad.stem}: " in (tmp_path / "out" / "report.html").read_text()
    (summary,) = (tmp_path / "out").rglob("seed-0/summary.json")
    assert list(json.loads(summary.read_text())["failed"]) == ["0", "blank"]
    assert row.result.failed == 1  # of the two, only this one is a test slide


def test_a_comparison_without_test_slides_trains_nothing(cohort: Path, tmp_path: Path):
    candidates = load_candidates(["mean"], encoder="tiny")
    table = tmp_path / "cohort.csv"
    table.write_text(cohort.read_text().replace(",test", ",train"))
    with pytest.raises(ComparisonError, match=r"cohort\.csv: there are no test slides; put some"):
        compare(table, candidates, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_zooming_costs_less_than_visiting_all_patches(compared: tuple[list[ComparisonRow], Path]):
    zooming, exhaustive, *_ = compared[0]
    assert zooming.result.patches < exhaustive.result.patches
    assert zooming.result.macs < exhaustive.result.macs


def test_a_comparison_is_resumed(cohort: Path, compared: tuple[list[ComparisonRow], Path]):
    rows, out = compared
    kept = [out / name / "seed-0" / "checkpoint.json" for name in MODELS[:3]]
    before = [path.stat().st_mtime_ns for path in kept]
    again = run(cohort, out)
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert [row.scores for row in again[:3]] == [row.scores for row in rows[:3]]
    assert again[3].result.reason is None  # no longer broken, so it is trained now
    assert (out / "clam-sb/seed-0/checkpoint.json").exists()


def test_a_comparison_with_other_settings_is_refused_and_keeps_the_earlier_results(
    cohort: Path, compared: tuple[list[ComparisonRow], Path]
):
    _, out = compared
    files = [path for path in out.iterdir() if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    own = ["zoommil:model.k=3", "zoommil:slide.magnifications=2.5,10"]
    overrides = ["slide.patch_size=64", *own]
    others = load_candidates(["mean", "zoommil"], overrides=overrides, epochs=1, encoder="tiny")
    with pytest.raises(ComparisonError, match=r"zoommil.seed-0: the run in this folder has"):
        compare(cohort, others, out, device="cpu", timed=0, resamples=9, skip_unreadable=True)
    overrides = ["slide.patch_size=64", "zoommil:model.k=2", own[1]]
    folds = load_candidates(["zoommil"], overrides=overrides, epochs=1, encoder="tiny", folds=2)
    with pytest.raises(ComparisonError, match=r"has no folds, and this one has folds"):
        compare(cohort, folds, out, device="cpu", timed=0, resamples=9, skip_unreadable=True)
    assert {path: path.read_bytes() for path in files} == before


def test_an_interrupted_comparison_shows_the_models_that_are_done(
    cohort: Path, compared: tuple[list[ComparisonRow], Path], monkeypatch: pytest.MonkeyPatch
):
    _, out = compared
    for name in ("results.csv", "results.png", "report.html"):
        (out / name).unlink()

    def stopped(self: ABMIL, bag: StoredBag) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ABMIL, "forward", stopped)
    rmtree(out / "abmil/seed-0/evaluation")
    with pytest.raises(KeyboardInterrupt):
        run(cohort, out)
    with (out / "results.csv").open() as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["zoommil"]
    assert (out / "results.png").exists()
    assert "zoommil" in (out / "report.html").read_text()


@pytest.mark.slow
def test_each_fold_and_seed_is_a_run_of_a_model(cohort: Path, tmp_path: Path):
    lines = cohort.read_text().splitlines()[:-1]
    table = tmp_path / "cohort.csv"
    rows = [line.rpartition(",")[0].replace(",", f",{cohort.parent}/", 1) for line in lines[1:]]
    table.write_text("\n".join(["slide_id,path,label", *rows]))
    candidates = load_candidates(
        ["mean"], overrides=["slide.patch_size=64"], epochs=1, encoder="tiny", folds=2
    )
    (row,) = compare(
        table, candidates, tmp_path / "out", seeds=2, device="cpu", timed=0, resamples=9
    )
    assert len(row.result.runs) == 4
    assert row.result.seconds == {}
    for seed in (0, 2):
        slides = [slide for each in row.result.runs[seed : seed + 2] for slide in each.groups]
        assert sorted(slides) == sorted(str(number) for number in range(SLIDES))
    assert row.scores["accuracy"].sd is not None


def tmacs(model: torch.nn.Module, *counts: int) -> float:
    """MACs of a model in 10^12, including encoding by ResNet-50 up to layer 3."""
    macs_per_patch = load_encoder("resnet50-layer3-random", runtime="torch").macs_per_patch()
    assert round(macs_per_patch / 1e9, 3) == 4.281
    cost_meter = CostMeter()
    with torch.no_grad(), cost_meter.measure_macs():
        prediction = model.eval()(StoredBag([torch.zeros(count, 1024) for count in counts]))
    patches = sum(len(look.rows) for look in prediction.looks)
    return (patches * macs_per_patch + cost_meter.total().macs) / 1e12


def test_macs_are_those_of_the_zoommil_table():
    """BRIGHT has 3,842 patches at 10x, so 60 at 1.25x; the paper prints two digits."""
    assert tmacs(ABMIL(1024, 3), 3842) == pytest.approx(16.45, abs=0.005)
    assert tmacs(ZoomMIL(1024, 3, k=12), 60, 240, 3840) == pytest.approx(1.29, abs=0.01)
    zooming = ZoomMIL(1024, 3, num_magnifications=2, k=8)
    assert tmacs(zooming, 60, 240) == pytest.approx(0.40, abs=0.01)


@pytest.mark.slow
def test_the_curve_evaluates_zooming_models_at_each_share_once(
    compared: tuple[list[ComparisonRow], Path], cohort: Path, monkeypatch: pytest.MonkeyPatch
):
    _, out = compared
    run(cohort, out, shares=(0.005, 0.9))
    with (out / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = [row for row in rows if (row["model"], row["visited"]) == ("zoommil", "wanted")]
    assert [row["attained"] for row in wanted] == ["false", "true"]
    assert float(wanted[1]["share"]) <= 0.9
    assert float(wanted[0]["macs"]) < float(wanted[1]["macs"])
    assert {row["visited"] for row in rows} == {"wanted", "random", "own", "exhaustive"}
    assert "Accuracy against share" in (out / "report.html").read_text()
    assert "| zoommil | most wanted | 0.5% (" in (out / "results.md").read_text()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("evaluated again")

    monkeypatch.setattr("parfocal.compare.curve_runs.evaluate", refuse)
    run(cohort, out, shares=(0.005, 0.9))
