"""A run with folds is evaluated out of fold, and new slides by all folds together."""

import csv
import json
import shutil
from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest

from parfocal.dataset import read_cohort
from parfocal.dataset.split import read_split
from parfocal.evaluate.heldout import EvaluationError
from parfocal.evaluate.run import evaluate
from parfocal.metrics import threshold_scores
from parfocal.models.checkpoint import Checkpoint
from parfocal.settings import load_settings
from parfocal.train import train
from train_features import write_features

FOLDS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two folds on 20 toy slides, and 4 more slides that are not in it."""
    folder, rng = tmp_path_factory.mktemp("folds"), np.random.default_rng(0)
    tables = {"cohort.csv": ["slide_id,path,label"], "other.csv": ["slide_id,path,label"]}
    for number in range(24):
        label = ("ill", "well")[number % 2]
        table = tables["cohort.csv" if number < 20 else "other.csv"]
        table.append(f"{number:03d},{number:03d}.svs,{label}")
        write_features(folder / "features", f"{number:03d}", rng, 1 if label == "ill" else -1)
    for name, rows in tables.items():
        (folder / name).write_text("\n".join(rows))
    overrides = ["slide.patch_size=16", "encoder.name=tiny", "model.dim=8", "train.epochs=1"]
    overrides += [f"train.folds={FOLDS}", "train.val_fraction=0.3", "train.threshold=youden"]
    settings = load_settings("abmil", overrides=overrides)
    settings = replace(settings, slide=replace(settings.slide, magnifications=(5.0,)))
    cohort = read_cohort(folder / "cohort.csv")
    train(
        cohort, settings, folder / "run", features=folder / "features", device="cpu", progress=False
    )
    return folder


def run_evaluation(folder, run, table, out, **options):
    result = evaluate(
        *(folder / run, folder / table, out),
        features=folder / "features",
        device="cpu",
        report=False,
        resamples=20,
        **options,
    )
    with (out / "predictions.csv").open(newline="") as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    return result, rows, json.loads((out / "metrics.json").read_text())


def test_a_slide_of_the_run_is_predicted_by_the_fold_that_tests_it(folder, tmp_path):
    _, rows, metrics = run_evaluation(folder, "run", "cohort.csv", tmp_path / "all")
    assert len(rows) == 20
    for number in range(FOLDS):
        fold = f"fold-{number}"
        tested = read_split(folder / "run" / fold / "split.csv")
        ids = {row.slide_id for row in tested if row.split == "test"}
        assert {name for name, row in rows.items() if row["folds"] == fold} == ids
        assert metrics["folds"][number]["n"] == len(ids)
    _, alone, one = run_evaluation(folder, "run/fold-1", "cohort.csv", tmp_path / "fold-1")
    assert alone.keys() == ids
    assert {name: rows[name]["prob_ill"] for name in ids} == {
        name: row["prob_ill"] for name, row in alone.items()
    }
    own = metrics["folds"][1]["scores"]["auroc_macro"]
    assert own == one["slides"]["scores"]["auroc_macro"]["value"]
    values = [each["scores"]["accuracy"] for each in metrics["folds"]]
    assert metrics["mean_over_folds"]["accuracy"] == {
        "folds": 2, "mean": mean(values), "sd": stdev(values),
    }  # fmt: skip
    assert metrics["seen_in_training"] == 0


def test_a_new_slide_is_predicted_by_all_folds(folder, tmp_path):
    _, rows, metrics = run_evaluation(folder, "run", "other.csv", tmp_path / "all")
    alone = [
        run_evaluation(folder, f"run/fold-{n}", "other.csv", tmp_path / str(n))[1] for n in range(2)
    ]
    for name, row in rows.items():
        assert row["folds"] == "fold-0 fold-1"
        values = [float(each[name]["prob_ill"]) for each in alone]
        assert float(row["prob_ill"]) == pytest.approx(mean(values), rel=1e-5)
        assert float(row["sd_ill"]) == pytest.approx(stdev(values), rel=1e-3, abs=1e-6)
    assert "folds" not in metrics


def test_a_slide_that_all_folds_have_seen_is_refused(folder, tmp_path):
    fold = folder / "run" / "fold-0"
    seen = [row.slide_id for row in read_split(fold / "split.csv") if row.split == "train"]
    run = tmp_path / "run"
    for name in ("fold-0", "fold-1"):  # both trained on the same slides
        shutil.copytree(fold, run / name)
    with pytest.raises(EvaluationError, match=rf"{len(seen)} of the \d+ slides.*were used for"):
        run_evaluation(folder, run, "cohort.csv", tmp_path / "out", split="train")


def test_decisions_are_those_at_the_threshold_of_the_run(folder, tmp_path):
    result, rows, metrics = run_evaluation(folder, "run/fold-0", "cohort.csv", tmp_path / "out")
    point = Checkpoint.load(folder / "run" / "fold-0").operating_point
    value = point.thresholds["well"].value
    well = np.array([row["label"] == "well" for row in rows.values()])
    score = np.array([float(row["prob_well"]) for row in rows.values()])
    assert [row["predicted"] == "well" for row in rows.values()] == (score >= value).tolist()
    expected = threshold_scores(well, score, value, tuple(rows))
    found = metrics["operating_point"]["thresholds"]["well"]
    for name, each in expected.items():
        assert found["slides"][name]["value"] == found["patients"][name]["value"] == each.value
        assert (found["slides"][name]["low"], found["slides"][name]["high"]) == (
            each.low, each.high,
        )  # fmt: skip
    assert metrics["operating_point"]["text"] == point.summary
    accuracy = np.mean([row["predicted"] == row["label"] for row in rows.values()])
    assert metrics["slides"]["scores"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert f"at well >= {value:.3f}: sensitivity {expected['sensitivity'].text}" in result.summary
    assert metrics["predicted"] == f"well if its probability is {value:.6g} or more"
    assert metrics["auroc_delong"].keys() == {"ill", "well"}
    assert metrics["decision_curve"]["label"] == "well"
    assert metrics["calibration"]["temperature"] is None
    assert sum(each["n"] for each in metrics["calibration"]["bins"]) == len(rows)
