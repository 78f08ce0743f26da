"""Budgets of a run with folds, of which several predict a slide together."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch

from parfocal import cost
from parfocal.cost import Cost
from parfocal.dataset.cohort import CohortSlide
from parfocal.evaluate.budget_check import BudgetCheck
from parfocal.evaluate.calibrate import store_rule
from parfocal.evaluate.result import SlideResult
from parfocal.evaluate.run import evaluate
from parfocal.models import visit
from parfocal.models.checkpoint import Checkpoint, build_model
from parfocal.models.ensemble import load_trained
from parfocal.models.stopping import StoppingRule
from parfocal.models.unit import Unit
from parfocal.models.visit import given_budget
from parfocal.predict import predict
from parfocal.predict.patient_table import read_patients
from parfocal.predict.patients import predict_patients

# Stops after the first round, whatever the answer is; and never.
EAGER, NEVER = (
    StoppingRule((threshold,) * 2, 16, 0.5, slides={"normal": 1, "tumor": 1})
    for threshold in (0.0, 1.0)
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    folder, rows = tmp_path_factory.mktemp("other"), ["slide_id,path,label"]
    for number, label in enumerate(("normal", "tumor")):
        write_slide(folder / f"{label}.tif", dark=number == 1, seed=number)
        rows.append(f"{label},{label}.tif,{label}")
    (folder / "other.csv").write_text("\n".join(rows))
    return folder / "other.csv"


@pytest.fixture
def run(untrained: Checkpoint, tmp_path: Path) -> Path:
    """A run with two folds of different weights, which zoom into the same patches or others."""
    for number in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(number)
            model = build_model("zoommil", untrained.model_settings).eval()
            for weights in model.parameters():
                weights.data += 0.3 * torch.randn_like(weights)
        replace(untrained, model=model).save(tmp_path / "run" / f"fold-{number}")
    return tmp_path / "run"


@pytest.fixture
def _one_second_per_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each run of a model take one second, and everything else none."""
    seconds, run_model = [0.0], visit.run_model

    def run_in_one_second(*arguments, **options):
        seconds[0] += 1
        return run_model(*arguments, **options)

    monkeypatch.setattr(visit, "run_model", run_in_one_second)
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: seconds[0]))


def evaluated(run: Path, cohort: Path, budget: str) -> tuple[dict, list[dict]]:
    """Evaluate new slides; return the content of metrics.json, and the result of each slide."""
    out = run.parent / f"{run.name} {budget}"
    evaluate(
        *(run, cohort, out),
        external=True, budget=budget, device="cpu", resamples=20, report=False,
    )  # fmt: skip
    lines = (out / "slides.jsonl").read_text().splitlines()
    results = [each["result"] for each in map(json.loads, lines) if "result" in each]
    return json.loads((out / "metrics.json").read_text()), results


def patches_of(result: dict) -> int:
    return sum(step["patches"] for step in result["steps"])


def test_the_answers_after_all_rounds_are_the_mean_of_the_folds(run: Path, cohort: Path):
    store_rule(run / "fold-0", EAGER)
    store_rule(run / "fold-1", NEVER)
    metrics, joined = evaluated(run, cohort, "settled")
    alone = [evaluated(run / name, cohort, "settled")[1] for name in ("fold-0", "fold-1")]
    assert len(joined) == 2
    for result, *own in zip(joined, *alone, strict=True):
        assert patches_of(result) == fmean(map(patches_of, own))
        assert result["full"]["patches"] == fmean(each["full"]["patches"] for each in own)
        one, two = (each["full"]["probabilities"] for each in own)
        expected = [fmean(pair) for pair in zip(one, two, strict=True)]
        assert result["full"]["probabilities"] == pytest.approx(expected)
    check = metrics["budget"]
    assert (check["limit"], check["slides"]) == ("settled", 2)
    full = sum(each["full"]["patches"] for each in joined)
    assert check["share_of_full"] == sum(map(patches_of, joined)) / full < 1


def test_the_cost_of_folds_that_settle_is_without_what_they_left_out(run: Path, cohort: Path):
    for name in ("fold-0", "fold-1"):
        store_rule(run / name, EAGER)
    metrics, results = evaluated(run, cohort, "settled")
    for result in results:
        assert result["full"]["patches"] > patches_of(result)
        assert result["cost"]["patches"] == [patches_of(result)]  # the lowest magnification
    assert len(metrics["cost"]["encoding_macs"]) == 1


def test_results_without_an_answer_after_all_rounds_have_no_check():
    slide = CohortSlide("a", Path("a.tif"), "tumor", "a", 0)
    result = SlideResult(slide, (0.5, 0.5), (), None, Cost((), 0, None, 0, {}))
    assert BudgetCheck.of_results("settled", [result]) is None


@pytest.mark.parametrize(
    ("budget", "not_met", "not_zoomed"), [("share=50%", 0, 0), ("patches=1", 2, 2)]
)
def test_a_fixed_budget_is_met_if_each_fold_meets_it(
    run: Path, cohort: Path, budget: str, not_met: int, not_zoomed: int
):
    check = evaluated(run, cohort, budget)[0]["budget"]
    assert (check["limit"], check["slides"], check["not_met"]) == (budget, 2, not_met)
    assert check["not_zoomed"] == not_zoomed
    assert ("no zoom on 2 of 2 slides" in check["text"]) == (not_zoomed > 0)


@pytest.mark.usefixtures("_one_second_per_round")
def test_each_fold_has_an_equal_part_of_the_seconds(run: Path, cohort: Path):
    """Of 4 s, each fold has 2 s: for the lowest magnification and one of two parents."""
    trained = given_budget(load_trained(run), "seconds=4")
    record = predict(cohort.parent / "tumor.tif", trained)
    lowest = record.cost.patches[0]
    assert [member.patches for member in record.members] == [(lowest, 16)] * 2
    assert [member.stop_reason for member in record.members] == [
        "after 2.00 s, the limit of 2 s was reached",
        "after 4.00 s, the limit of 4 s was reached",
    ]
    assert record.stop_reason == (
        "fold-0: after 2.00 s, the limit of 2 s was reached; "
        "fold-1: after 4.00 s, the limit of 4 s was reached"
    )
    assert record.rounds == ()  # those of the mean are unknown
    for member in record.members:
        assert member.rounds[-1].patches == sum(member.patches)
        assert member.rounds[-1].probabilities == member.probabilities
    assert record.budget is not None
    assert record.budget.met
    metrics, results = evaluated(run, cohort, "seconds=5")  # the first alone would visit 32
    assert [result["steps"][1]["patches"] for result in results] == [16, 16]
    assert metrics["budget"]["not_met"] == 0


@pytest.mark.usefixtures("_one_second_per_round")
def test_each_fold_has_an_equal_part_of_the_seconds_of_a_patient(run: Path, cohort: Path):
    table = run.parent / "patients.csv"
    table.write_text("patient,slide\na,normal\na,tumor\n")
    slides = [cohort.parent / f"{name}.tif" for name in ("normal", "tumor")]
    trained = replace(load_trained(run), unit=Unit("patient"))
    (record,) = predict_patients(
        *(read_patients(table, slides), given_budget(trained, "seconds=4"), run.parent / "out"),
        device="cpu",
    )
    for number in range(2):
        visited = [slide.members[number].patches[1] for slide in record.slides]  # type: ignore[union-attr]
        assert sum(visited) == 16


@pytest.mark.usefixtures("_one_second_per_round")
def test_seconds_are_not_met_if_the_last_fold_exceeds_them(run: Path, cohort: Path):
    trained = given_budget(load_trained(run), "seconds=1")
    record = predict(cohort.parent / "tumor.tif", trained)
    assert [len(member.added.patches) for member in record.members] == [1, 1]
    assert record.budget is not None
    assert record.budget.met is False
    assert record.bill.endswith("the budget seconds=1 was not met")


def test_the_limit_of_a_fold_is_not_above_that_of_all_folds(
    run: Path, cohort: Path, monkeypatch: pytest.MonkeyPatch
):
    passed = iter(range(1000))
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: 0.1 * next(passed)))
    trained = given_budget(load_trained(run), "seconds=0.05")
    record = predict(cohort.parent / "tumor.tif", trained)
    for member in record.members:
        assert member.stop_reason.endswith("the limit of 0.05 s was reached")


def test_a_budget_of_patches_limits_each_fold_and_what_several_visit_is_read_once(
    run: Path, cohort: Path
):
    trained = given_budget(load_trained(run), "patches=24")
    record = predict(cohort.parent / "tumor.tif", trained)
    assert all(sum(member.patches) <= 24 for member in record.members)
    assert sum(record.cost.patches) == len({region.id for region in record.regions})
    assert record.budget is not None
    assert record.budget.met
