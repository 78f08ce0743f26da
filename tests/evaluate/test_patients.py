"""Evaluation with one prediction per patient: one bag, late fusion, covariates."""

import csv
import json
import logging
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.dataset.cohort import CohortError
from parfocal.encoders.loading import load_encoder
from parfocal.evaluate.heldout import EvaluationError
from parfocal.evaluate.run import evaluate
from parfocal.features.header import SlideSettings
from parfocal.features.store import feature_path
from parfocal.models.budget import BudgetError
from parfocal.models.checkpoint import Checkpoint, TrainingProvenance, build_model
from parfocal.models.covariates import fit_covariates
from parfocal.models.description import CheckpointError
from parfocal.models.ensemble import load_trained
from parfocal.models.unit import SLIDE, Unit
from train_features import write_features

SLIDES = {"p0": 3, "p1": 1, "p2": 2, "p3": 2}  # slides of each patient; odd patients are ill
COVARIATES = fit_covariates(("age", "sex"), [{"age": "50", "sex": "F"}, {"age": "70", "sex": "M"}])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patients")
    rng = np.random.default_rng(0)
    rows = ["slide_id,path,label,patient_id,age,sex"]
    for number, (patient, slides) in enumerate(SLIDES.items()):
        for slide in range(slides):
            name = f"{patient}-{slide}"
            label = "ill" if number % 2 else "well"
            rows.append(f"{name},{name}.svs,{label},{patient},{50 + 10 * number},{'FMX?'[number]}")
            write_features(folder / "features", name, rng, 1 if slide == 0 else -1)
    (folder / "cohort.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def untrained() -> Checkpoint:
    encoder = load_encoder("tiny").spec
    settings = {"in_dim": encoder.dim, "num_classes": 2, "num_magnifications": 2, "k": 1, "dim": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("zoommil", settings).eval()
    return Checkpoint(
        model=model,
        model_name="zoommil",
        model_settings=settings,
        labels=("well", "ill"),
        encoders=(encoder,) * 2,
        slide=SlideSettings((2.5, 5.0), 16),
        training=TrainingProvenance(0, 0),
    )


@pytest.fixture
def run(folder: Path, untrained: Checkpoint, tmp_path: Path):
    """Return a function that evaluates a model asked for a unit, and reads its table."""
    calls = iter(range(100))

    def evaluate_unit(unit: Unit = SLIDE, *, features: Path | None = None, **options: object):
        place = tmp_path / str(next(calls))
        trained = replace(untrained, unit=unit, model=deepcopy(untrained.model))
        unit.attach(trained.model, 2)
        trained.save(place)
        cohort = options.pop("cohort", folder / "cohort.csv")
        evaluate(
            place,
            cohort,
            place / "out",
            features=features or folder / "features",
            resamples=20,
            report=False,
            **options,
        )
        with (place / "out" / "predictions.csv").open(newline="") as file:
            rows = {row["slide_id"]: row for row in csv.DictReader(file)}
        return rows, json.loads((place / "out" / "metrics.json").read_text())

    return evaluate_unit


def probabilities(rows: dict[str, dict[str, str]], name: str) -> list[float]:
    return [float(rows[name][f"prob_{label}"]) for label in ("well", "ill")]


def test_there_is_one_row_per_patient(run):
    rows, metrics = run(Unit("patient"))
    assert {name: int(row["slides"]) for name, row in rows.items()} == SLIDES
    assert [row["label"] for row in rows.values()] == ["well", "ill", "well", "ill"]
    assert metrics["per"] == "patient"
    assert metrics["slides"]["n"] == metrics["patients"]["n"] == 4
    # One budget: all patches at 2.5x, and the 4 children of the one selected, of all slides.
    assert int(rows["p0"]["patches"]) == 3 * 6 + 4
    assert float(rows["p0"]["share_patches"]) == pytest.approx((3 * 6 + 4) / (3 * 24), rel=1e-5)


def test_a_patient_with_one_slide_is_the_slide(run):
    slides, _ = run()
    patients, _ = run(Unit("patient"))
    assert probabilities(patients, "p1") == probabilities(slides, "p1-0")
    assert probabilities(patients, "p0") != probabilities(slides, "p0-0")


def test_mean_and_max_ask_a_model_of_slides_for_patients(run):
    slides, _ = run()
    of_p0 = np.array([probabilities(slides, f"p0-{n}") for n in range(3)])
    mean, metrics = run(per="patient", fusion="mean")
    assert probabilities(mean, "p0") == pytest.approx(of_p0.mean(axis=0), abs=1e-5)
    assert metrics["fusion"] == "mean"
    most, _ = run(per="patient", fusion="max")
    assert probabilities(most, "p0") == pytest.approx(of_p0[of_p0[:, 0].argmin()], abs=1e-5)
    assert int(mean["p0"]["patches"]) == 3 * (6 + 4)  # a budget for each slide


def test_attention_weighs_the_vectors_of_the_slides(run):
    rows, _ = run(Unit("patient", "attention"))
    assert sum(probabilities(rows, "p0")) == pytest.approx(1, abs=1e-5)
    slides, _ = run()
    assert probabilities(rows, "p1") == pytest.approx(probabilities(slides, "p1-0"), abs=1e-5)


@pytest.mark.parametrize(
    ("unit", "options", "message"),
    [
        (Unit(), {"per": "patient"}, "trained on slides; for patients, add --fusion mean"),
        (Unit("patient"), {"per": "slide"}, "trained on patients, so it predicts per patient"),
        (Unit("patient"), {"fusion": "mean"}, "one bag of all slides, so it cannot predict with"),
        (Unit(), {"per": "slide", "fusion": "max"}, "joins the slides of a patient; use it per"),
        (Unit(), {"fusion": "attention"}, "or train a model per patient with attention"),
    ],
)
def test_what_a_model_cannot_be_asked_is_refused(run, unit, options, message):
    with pytest.raises(EvaluationError, match=message):
        run(unit, **options)


def test_fused_predictions_have_no_budget(run):
    with pytest.raises(BudgetError, match=r"each slide of a patient by itself .*leave --budget"):
        run(per="patient", fusion="mean", budget="share=50%")


def test_an_unreadable_slide_fails_its_patient_unless_it_may_be_skipped(run, folder, tmp_path):
    features = tmp_path / "features"
    features.mkdir()
    for file in (folder / "features").iterdir():
        (features / file.name).write_bytes(file.read_bytes())
    feature_path(features, "p2-1").write_bytes(b"damaged")
    rows, metrics = run(Unit("patient"), features=features)
    assert set(rows) == {"p0", "p1", "p3"}
    (failed,) = metrics["failed"]
    assert failed["slide_id"] == "p2"
    assert failed["reason"].startswith("patient p2, slide p2-1: ")
    rows, metrics = run(Unit("patient"), features=features, skip_unreadable=True)
    assert rows["p2"]["slides"] == "1"
    assert metrics["failed"] == []
    assert metrics["left_out"] == {"p2": ["p2-1"]}


def test_a_patient_in_two_classes_is_refused(run, folder):
    text = (folder / "cohort.csv").read_text().replace("p2-1,p2-1.svs,well", "p2-1,p2-1.svs,ill")
    (folder / "two.csv").write_text(text)
    with pytest.raises(CohortError, match=r"patient 'p2' has label 'ill' on slide p2-1 and 'well'"):
        run(Unit("patient"), cohort=folder / "two.csv")


def test_covariates_come_from_the_cohort(run, caplog):
    unit = Unit("patient", covariates=COVARIATES)
    with caplog.at_level(logging.WARNING):
        rows, _ = run(unit)
    assert "p2: sex 'X' was not in training (F, M); it counts as missing" in caplog.text
    assert "p3" not in caplog.text  # a missing value
    assert len(rows) == 4


@pytest.mark.slow
@pytest.mark.parametrize("fusion", [None, "mean"])
def test_folds_answer_for_patients_each_with_its_own_covariates(
    folder, untrained, tmp_path, fusion
):
    alone = []
    for number, mean in enumerate((50, 60)):
        ages = [{"age": str(mean - 10)}, {"age": str(mean + 10)}]
        unit = Unit("patient", fusion, fit_covariates(("age",), ages))
        member = replace(untrained, unit=unit, model=deepcopy(untrained.model))
        unit.attach(member.model, 2)
        torch.nn.init.constant_(member.model.covariate_head.weight[0], 1.0 + number)
        member.save(tmp_path / "run" / f"fold-{number}")
        alone.append(tmp_path / "run" / f"fold-{number}")

    def answers(run):
        result = evaluate(
            *(run, folder / "cohort.csv", run / "out"),
            features=folder / "features",
            external=True,
            resamples=0,
            report=False,
        )
        return {each.slide.slide_id: each for each in result.results}

    whole, (first, second) = answers(tmp_path / "run"), map(answers, alone)
    assert set(whole) == set(SLIDES)
    for name, each in whole.items():
        pair = np.array([first[name].probabilities, second[name].probabilities])
        assert each.probabilities == pytest.approx(pair.mean(axis=0), abs=1e-6)
        assert each.spread["ill"] == pytest.approx(pair[:, 1].std(ddof=1), abs=1e-6)
        assert each.folds == ("fold-0", "fold-1")
    assert whole["p0"].spread["ill"] > 0.01


def test_folds_with_other_covariates_are_refused(untrained, tmp_path):
    for number, columns in enumerate((("age",), ("age", "sex"))):
        unit = Unit("patient", None, fit_covariates(columns, [{"age": "50", "sex": "F"}] * 2))
        member = replace(untrained, unit=unit, model=deepcopy(untrained.model))
        unit.attach(member.model, 2)
        member.save(tmp_path / f"fold-{number}")
    with pytest.raises(CheckpointError, match=r"fold-1 has other covariates \(age, sex\) than"):
        load_trained(tmp_path)


def test_a_cohort_without_a_covariate_is_refused(run, folder):
    lines = (folder / "cohort.csv").read_text().splitlines()
    (folder / "without.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in lines))
    with pytest.raises(CohortError, match=r"without\.csv: no column sex"):
        run(Unit("patient", covariates=COVARIATES), cohort=folder / "without.csv")


def test_a_budget_is_that_of_the_patient(run):
    rows, _ = run(Unit("patient"), budget="patches=20")
    assert int(rows["p0"]["patches"]) <= 20
