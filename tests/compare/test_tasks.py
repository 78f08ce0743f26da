"""Comparisons of models of tasks without classes."""

import csv
import io
import re

import numpy as np
import pytest

from parfocal.compare import ComparisonError, compare, load_candidates
from parfocal.compare.picture import Point, draw_comparison, pareto_front
from parfocal.compare.report import comparison_page
from parfocal.compare.scores import ModelResult, score_results
from parfocal.compare.table import to_csv, to_markdown
from parfocal.metrics import (
    LabeledPredictions,
    Part,
    RegressionPredictions,
    ResamplableNumbers,
    ResamplableParts,
    ResamplableSurvival,
    SurvivalPredictions,
)
from train_features import write_features

PATIENTS = tuple("abcdefghijkl")
TRUTH = np.arange(12.0)


def of_numbers(noise):
    rows = np.random.default_rng(0).normal(0, noise, 12)
    numbers = ResamplableNumbers(RegressionPredictions(TRUTH + rows, TRUTH, PATIENTS))
    names = {name: name for name in ("mae", "r2", "pearson", "spearman")}
    return ResamplableParts(PATIENTS, (Part(np.arange(12), numbers, names),))


def of_labels(name):
    truth = np.arange(12) % 2
    probability = np.linspace(0.1, 0.9, 12)
    rows = np.stack([1 - probability, probability], axis=1)
    labels = LabeledPredictions((f"no {name}", name), truth, rows, PATIENTS)
    auroc = f"auroc/{name}"
    parts = (Part(np.arange(12), labels, {auroc: auroc}),)
    return ResamplableParts(PATIENTS, parts, {"auroc_macro": (auroc,)})


def of_survival(sign):
    risk = sign * np.arange(12.0)
    event = np.arange(12) % 3 > 0
    return ResamplableSurvival(SurvivalPredictions(risk, 1.0 + np.arange(12), event, PATIENTS))


def text_of(rows, metric):
    html = comparison_page(rows, metric, draw_comparison(rows, metric))
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL).split())


def test_the_table_of_numbers_ranks_by_the_error():
    near, far = of_numbers(0.1), of_numbers(2.0)
    results = [
        ModelResult("far", (far,), macs=1e12, classes={"slides": 12}),
        ModelResult("near", (near,), macs=2e12, classes={"slides": 12}),
    ]
    rows = score_results(results, "mae", names=("r2", "mae"), resamples=50)
    assert [row.gap_to_best is None for row in rows] == [False, True]
    assert rows[0].gap_to_best.value > 0.5
    text = to_markdown(rows, "mae")
    assert text.startswith(
        "| model | test slides | R² | mean absolute error | gap to best (mean absolute error) |"
    )
    assert "| far | 12 slides | " in text
    assert "Lower is better for mean absolute error." in text
    assert "AUROC" not in text
    (first, _) = csv.DictReader(io.StringIO(to_csv(rows, "mae")))
    assert float(first["mae"]) == pytest.approx(rows[0].scores["mae"].value)
    assert first["n_slides"] == "12"
    page = text_of(rows, "mae")
    assert "far: predicted and true values" in page
    assert "no cheaper model scores better): far, near." in page
    assert "Confusion" not in page


def test_survival_is_drawn_by_tertiles_and_few_events_are_named():
    classes = {"events": 8, "censored": 4}
    results = [
        ModelResult(name, (of_survival(sign),) * 2, macs=1e12, classes=classes)
        for name, sign in (("good", -1), ("bad", 1))
    ]
    rows = score_results(results, "concordance", names=("concordance",), resamples=50)
    assert rows[0].scores["concordance"].value == 1
    assert rows[1].gap_to_best.value == pytest.approx(1)
    page = text_of(rows, "concordance")
    assert "good: Survival by tertile of the predicted risk (log-rank p" in page
    assert "Warning: fewer than 10 test slides with an event (8): scores are rough." in page
    assert "24 predictions (8 events, 4 censored)" in page


def test_each_label_has_a_roc_curve():
    results = [ModelResult("m", (of_labels("er"),), macs=1e12, classes={"slides": 12})]
    rows = score_results(results, "auroc_macro", names=("auroc_macro", "auroc/er"), resamples=20)
    page = text_of(rows, "auroc_macro")
    assert "m, er: ROC" in page
    assert "AUROC of er" in page


def test_the_front_of_an_error_has_the_lowest_scores():
    costs = {"d": (4.0, 0.3), "a": (1.0, 0.5), "c": (3.0, 0.4), "b": (1.0, 0.6)}
    points = [Point(name, cost, score, 0, 1) for name, (cost, score) in costs.items()]
    assert [point.name for point in pareto_front(points, lowest=True)] == ["a", "c", "d"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Toy slides of 16 patients, half of them with an early event."""
    folder, rng = tmp_path_factory.mktemp("survival"), np.random.default_rng(0)
    rows = [["slide_id", "path", "split", "months", "dead", "age"]]
    for number in range(16):
        ill, name = number % 2, f"{number:02d}"
        write_features(folder / "features", name, rng, 1 if ill else -1)
        months = 1 + number if ill else 20 + number
        part = ("train", "val", "test", "test")[number // 2 % 4]
        rows.append([name, f"{name}.svs", part, months, int(number % 3 > 0), 50 + number])
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def candidates(*names, **flags):
    overrides = [
        *("abmil:slide.magnifications=5", "abmil:slide.patch_size=16", "abmil:encoder.name=tiny"),
        *("abmil:model.dim=8", "abmil:train.covariates=[]"),
    ]
    overrides = [each for each in overrides if each.partition(":")[0] in names]
    task = {"train.task": "survival", "train.time": "months", "train.event": "dead"}
    return load_candidates(names, overrides=overrides, epochs=1, flags={**task, **flags})


@pytest.mark.slow
def test_models_of_survival_are_compared_with_covariates_alone(folder, tmp_path):
    rows = compare(
        folder / "cohort.csv",
        candidates("abmil", "covariates", **{"train.covariates": ["age"]}),
        tmp_path / "out",
        features=folder / "features",
        timed=0,
        resamples=20,
        device="cpu",
    )
    assert [row.result.reason for row in rows] == [None, None]
    assert all(0 <= row.scores["concordance"].value <= 1 for row in rows)
    assert sum(row.gap_to_best is None for row in rows) == 1
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        table = {row["model"]: row for row in csv.DictReader(file)}
    assert float(table["covariates"]["patches"]) == 0
    assert int(table["abmil"]["n_events"]) + int(table["abmil"]["n_censored"]) == 8
    assert table["abmil"]["integrated_brier"] != ""
    assert (tmp_path / "out" / "report.html").exists()


def test_a_score_that_the_task_does_not_have_is_refused(folder, tmp_path):
    with pytest.raises(
        ComparisonError, match=r"--metric accuracy: .* survival ranks by one of concordance, "
    ):
        compare(folder / "cohort.csv", candidates("abmil"), tmp_path, metric="accuracy")


def test_a_covariate_that_cannot_be_used_is_refused_before_any_slide_is_read(folder, tmp_path):
    text = (folder / "cohort.csv").read_text().replace(",50\n", ",fifty\n")
    (tmp_path / "cohort.csv").write_text(text)
    models = candidates("abmil", "covariates", **{"train.covariates": ["age"]})
    with pytest.raises(ValueError, match="covariate age: 'fifty' is not a number, and most"):
        compare(tmp_path / "cohort.csv", models, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()  # the slide files do not exist either
