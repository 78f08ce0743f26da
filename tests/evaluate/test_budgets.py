"""Budgets from the run folder to the tables: calibrate, evaluate and predict."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from command_result import CommandResult
from parfocal.evaluate.budget_check import BudgetCheck
from parfocal.evaluate.calibrate import (
    Calibration,
    Trajectory,
    calibrate_runs,
    known_trajectories,
    store_rule,
)
from parfocal.evaluate.heldout import EvaluationError
from parfocal.evaluate.run import evaluate
from parfocal.explain.read_record import read_prediction
from parfocal.models.budget import Budget, BudgetError
from parfocal.models.checkpoint import Checkpoint, TrainingProvenance
from parfocal.models.description import CheckpointError
from parfocal.models.rounds import ROUND_PATCHES
from parfocal.models.stopping import StoppingRule
from parfocal.models.visit import given_budget
from parfocal.operating_point import OperatingPoint, Threshold
from parfocal.predict import predict
from parfocal.settings import load_settings
from parfocal.slide import file_fingerprint
from parfocal.tasks.classification import Classification
from parfocal.tasks.survival import Survival

PARTS = {"a": "val", "b": "val", "c": "test", "d": "test"}
# Stops after the first round, whatever the answer is.
EAGER = StoppingRule((0.0, 0.0), 16, 0.5, slides={"normal": 1, "tumor": 1})


def write_run(folder: Path, trained: Checkpoint, val: tuple[str, ...] = ("a", "b")) -> Path:
    """Write a run with validation slides, and its split."""
    slides = {"train": ["z"], "val": list(val)}
    replace(trained, training=TrainingProvenance(0, 1, slides)).save(folder)
    rows = [f"{name},{name},normal,{part}" for name, part in PARTS.items()]
    (folder / "split.csv").write_text("\n".join(["slide_id,patient_id,label,split", *rows]))
    return folder


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, write_slide: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("budgets")
    rows = []
    for number, name in enumerate(PARTS):
        write_slide(folder / f"{name}.tif", dark=number % 2 == 1, seed=number)
        rows.append(f"{name},{name}.tif,{('normal', 'tumor')[number % 2]}")
    (folder / "cohort.csv").write_text("\n".join(["slide_id,path,label", *rows]))
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def run(cohort: Path, untrained: Checkpoint) -> Path:
    return write_run(cohort.parent / "run", untrained)


def metrics_of(run: Path, cohort: Path, out: Path, budget: str | None) -> dict:
    evaluate(run, cohort, out, budget=budget, device="cpu", resamples=20, report=False)
    return json.loads((out / "metrics.json").read_text())


def test_a_calibrated_run_stops_when_settled_and_the_evaluation_checks_it(
    run: Path, cohort: Path, tmp_path: Path
):
    (calibration,) = calibrate_runs(run, cohort, device="cpu", max_disagreement=0.5)
    assert sum(calibration.rule.slides.values()) == 2
    assert Checkpoint.load(run).stopping == calibration.rule
    assert "on 2 slides" in calibration.text
    store_rule(run, EAGER)
    metrics = metrics_of(run, cohort, tmp_path, "settled")
    check = metrics["budget"]
    assert (check["limit"], check["slides"]) == ("settled", 2)
    assert check["disagreement"]["interval"] == "clopper-pearson"
    assert check["disagreement"]["value"] == check["disagreements"] / 2
    assert check["share_of_full"] < 1
    # Only the lowest magnification was visited, and only that is in the bill.
    assert [step["mean"] for step in metrics["cost"]["patches"]][1:] in ([], [0.0])
    assert "budget" not in metrics_of(run, cohort, tmp_path / "own", None)


def test_a_model_without_a_budget_answers_as_before_after_calibration(run: Path, cohort: Path):
    trained = replace(Checkpoint.load(run), stopping=EAGER)
    assert trained.settings_hash == replace(trained, stopping=None).settings_hash
    assert given_budget(trained, "share=5%").settings_hash != trained.settings_hash


def test_a_budget_is_spent_on_a_slide_file_and_recorded(run: Path, cohort: Path, tmp_path: Path):
    trained = Checkpoint.load(run)
    own = predict(cohort.parent / "c.tif", trained)
    lowest = own.cost.patches[0]
    few = predict(cohort.parent / "c.tif", given_budget(trained, f"patches={lowest + 20}"))
    assert sum(few.cost.patches) == lowest + 16 < sum(own.cost.patches)
    assert few.budget is not None
    assert few.budget.met
    assert few.stop_reason == f"the budget patches={lowest + 20} was spent"
    none = predict(cohort.parent / "c.tif", given_budget(trained, f"patches={lowest - 1}"))
    assert none.budget is not None
    assert none.budget.met is False
    assert none.cost.patches == (lowest,)
    assert "was not met: the lowest magnification alone costs" in none.stop_reason
    assert none.bill.endswith(f"; the budget patches={lowest - 1} was not met")
    (tmp_path / "c.json").write_text(none.to_json())
    assert read_prediction(tmp_path / "c.json") == none


def test_macs_and_a_share_limit_what_is_encoded(run: Path, cohort: Path):
    trained = Checkpoint.load(run)
    own = predict(cohort.parent / "c.tif", trained).cost
    assert own.exhaustive is not None
    limit = sum(own.encoding_macs) * 0.8
    cheap = predict(cohort.parent / "c.tif", given_budget(trained, f"macs={limit}")).cost
    assert sum(cheap.encoding_macs) <= limit < sum(own.encoding_macs)
    all_of_it = predict(cohort.parent / "c.tif", given_budget(trained, "share=100%")).cost
    assert own.exhaustive.patches - 16 <= sum(all_of_it.patches) <= own.exhaustive.patches
    assert sum(all_of_it.patches) > sum(own.patches)  # more than the model's own K


@pytest.mark.parametrize("budget", ["macs=5G", "seconds=2"])
def test_what_counts_encoding_is_refused_for_stored_features(run: Path, cohort: Path, budget: str):
    with pytest.raises(BudgetError, match=r"stored features are already encoded; .*share=P%"):
        evaluate(run, cohort, run / "e", features=run, budget=budget)


def test_a_rule_holds_for_the_k_it_was_made_with(run: Path, cohort: Path):
    (made,) = calibrate_runs(run, cohort, device="cpu", max_disagreement=0.5)
    trained = Checkpoint.load(run)
    k = made.rule.k[0]
    assert trained.model_settings["k"] in (k, [k])
    assert given_budget(trained, "settled").budget == made.rule
    with pytest.raises(
        BudgetError, match=rf"calibrated for k={k}, and the model now has k={k + 1};"
    ):
        given_budget(Checkpoint.load(run, overrides={"k": k + 1}), "settled")
    older = replace(trained, stopping=replace(made.rule, k=()))
    assert given_budget(older, "settled").budget == older.stopping


def test_rounds_are_recorded_in_the_order_of_visits(run: Path, cohort: Path, tmp_path: Path):
    trained = Checkpoint.load(run)
    never = replace(EAGER, thresholds=(1.0, 1.0))
    record = predict(cohort.parent / "c.tif", replace(trained, budget=never))
    own = predict(cohort.parent / "c.tif", trained)
    assert record.probabilities == own.probabilities
    assert record.cost.patches == own.cost.patches
    assert len(record.rounds) == 3  # the lowest magnification, and two parents of 16 children
    assert record.rounds[-1].patches == sum(record.cost.patches)
    assert record.rounds[-1].probabilities == pytest.approx(record.probabilities)
    ordered = sorted(record.regions, key=lambda region: region.order)  # type: ignore[arg-type,return-value]
    assert [r.round for r in ordered] == sorted(r.round for r in ordered)  # type: ignore[type-var]
    answers = [each for each in ordered if each.probabilities is not None]
    assert [each.round for each in answers] == [0, 1, 2]
    (tmp_path / "c.json").write_text(record.to_json())
    assert read_prediction(tmp_path / "c.json") == record


def test_a_deadline_in_the_past_stops_after_the_lowest_magnification(run: Path, cohort: Path):
    trained = given_budget(Checkpoint.load(run), Budget("seconds", 1e-6))
    record = predict(cohort.parent / "c.tif", trained)
    assert len(record.cost.patches) == 1
    assert "the limit of 1e-06 s was reached" in record.stop_reason
    assert record.budget is not None
    assert record.budget.met is False


def test_a_run_without_validation_slides_is_not_calibrated(
    cohort: Path, untrained: Checkpoint, tmp_path: Path
):
    run = write_run(tmp_path / "run", untrained, ())
    with pytest.raises(EvaluationError, match=r"no validation slides.*val_fraction.*share=5%"):
        calibrate_runs(run, cohort, device="cpu")
    with pytest.raises(BudgetError, match=r"no stopping rule; make one .* `parfocal calibrate"):
        given_budget(Checkpoint.load(run), "settled")


def test_a_refitted_run_is_not_calibrated(cohort: Path, untrained: Checkpoint, tmp_path: Path):
    provenance = TrainingProvenance(0, 1, {"val": ["a"]}, refit=True)
    replace(untrained, training=provenance).save(tmp_path)
    with pytest.raises(EvaluationError, match="refitted on its validation slides"):
        calibrate_runs(tmp_path, cohort, device="cpu")


def test_validation_slides_that_are_not_in_the_cohort_are_named(
    cohort: Path, untrained: Checkpoint, tmp_path: Path
):
    run = write_run(tmp_path / "run", untrained, ("a", "gone"))
    with pytest.raises(EvaluationError, match=r"1 of the 2 validation slides .* such as gone"):
        calibrate_runs(run, cohort, device="cpu")


def test_too_few_slides_promise_nothing(
    cohort: Path, untrained: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = write_run(tmp_path / "run", untrained)
    (calibration,) = calibrate_runs(run, cohort, device="cpu", max_disagreement=0.05)
    assert not calibration.rule.can_stop
    assert "needs 19 slides of other classes" in calibration.text
    assert "answers after all rounds: " in calibration.text
    given_budget(Checkpoint.load(run), "settled")
    assert "no class ever settles, so all rounds are visited" in caplog.text


def test_a_class_of_another_column_and_its_threshold_settle(
    cohort: Path, untrained: Checkpoint, tmp_path: Path
):
    table = cohort.parent / "dx.csv"
    table.write_text(cohort.read_text().replace("label", "dx"))
    task = Classification(untrained.labels, "dx")
    point = OperatingPoint("0.3", {"tumor": Threshold(0.3)}, temperature=2.0)
    run = write_run(tmp_path, replace(untrained, task=task.to_dict(), operating_point=point))
    (made,) = calibrate_runs(run, table, device="cpu", max_disagreement=0.5)
    assert (made.rule.decision, made.rule.temperature) == (0.3, 2.0)
    assert made.rule.slides == {"normal": 0, "tumor": 2}  # 0.3 and more is a tumor
    assert "epoch was also chosen on the validation slides" in made.text
    assert Checkpoint.load(run).stopping == made.rule
    assert metrics_of(run, table, tmp_path / "e", "settled")["budget"]["slides"] == 2


def test_patients_on_which_a_budget_is_not_met_are_called_patients():
    check = BudgetCheck("patches=3", 2, not_met=1, per="patient")
    assert check.text == "budget patches=3, not met on 1 of 2 patients"
    assert "per" not in check.to_dict()


def test_a_task_without_one_class_does_not_settle(untrained: Checkpoint, cohort: Path):
    survival = replace(untrained, task=Survival("os", "event").to_dict())
    with pytest.raises(BudgetError, match="budget settled: the model does not predict one class"):
        given_budget(survival, "settled")
    survival.save(cohort.parent / "survival")
    with pytest.raises(EvaluationError, match="does not predict one class per slide"):
        calibrate_runs(cohort.parent / "survival", cohort, device="cpu")


def test_the_rule_of_a_fold_is_not_made_of_its_test_slides(
    cohort: Path, untrained: Checkpoint, tmp_path: Path
):
    write_run(tmp_path / "fold-0", untrained, ("a", "b"))
    write_run(tmp_path / "fold-1", untrained, ("c", "d"))
    rows = [f"{name},{name},normal,{'val' if name in 'cd' else 'train'}" for name in PARTS]
    split = "\n".join(["slide_id,patient_id,label,split", *rows])
    (tmp_path / "fold-1" / "split.csv").write_text(split)
    first, second = calibrate_runs(tmp_path, cohort, device="cpu", max_disagreement=0.5)
    assert sum(first.rule.slides.values()) == 2  # c and d are its test slides
    assert sum(second.rule.slides.values()) == 4


def test_a_slide_that_several_folds_validate_counts_once(
    cohort: Path, untrained: Checkpoint, tmp_path: Path
):
    for name, val in (("fold-0", ("a", "b")), ("fold-1", ("b", "a"))):
        write_run(tmp_path / name, untrained, val)
    for made in calibrate_runs(tmp_path, cohort, device="cpu", max_disagreement=0.5):
        assert sum(made.rule.slides.values()) == 2
        assert "on 2 slides" in made.text


def test_a_fold_answers_for_the_slides_that_it_validates_itself():
    own, of_other, second = (
        Trajectory(name, ((probability, 1 - probability),), (1,))
        for name, probability in (("a", 0.9), ("a", 0.1), ("b", 0.1))
    )
    folds = [of_other, second], [own]
    assert known_trajectories(folds, 0, {"b"}) == [of_other]
    assert known_trajectories(folds, 1, set()) == [own, second]


def test_a_round_is_the_children_of_one_patch_where_the_magnification_doubles():
    """So that the rule can leave out patches with the K of the default recipe, which is 4."""
    recipe = load_settings("zoommil-hindsight")
    lower, higher = recipe.slide.magnifications[-2:]
    assert (higher / lower) ** 2 == ROUND_PATCHES
    assert recipe.model.arguments["k"] > 1


def test_a_rule_that_stops_on_no_slide_asks_for_smaller_rounds():
    rule = StoppingRule((0.9, 0.9), 16, 0.05, slides={"0": 3, "1": 4})
    last = "no slide stops before its last round"
    smaller = f"{last}; use smaller rounds (--round-patches below 16)"
    assert smaller in Calibration(Path("run"), ("0", "1"), rule, children=4).text
    smallest = Calibration(Path("run"), ("0", "1"), rule, children=16)
    assert last in smallest.text
    assert "smaller rounds" not in smallest.text
    stopped = replace(rule, share_patches=0.9)
    assert last not in Calibration(Path("run"), ("0", "1"), stopped, children=4).text


@pytest.mark.parametrize(
    ("external", "advice"),
    [
        (False, "use more validation slides, folds or another cohort (--external), or allow"),
        (True, "use a larger cohort, or allow more with --max-disagreement"),
    ],
)
def test_the_text_of_a_rule_says_what_is_missing(external: bool, advice: str):
    rule = StoppingRule((1.0, 0.9), 16, 0.05, slides={"0": 3, "1": 4})
    text = Calibration(Path("run"), ("0", "1"), rule, 4, external).text
    assert text.startswith("run: settled: 0: never, 1: above 0.900; on 7 slides (answers after")
    assert advice in text


def test_a_rule_is_made_of_slides_that_are_not_in_the_run_and_not_evaluated_on_them(
    cohort: Path, untrained: Checkpoint, tmp_path: Path, write_slide: Callable[..., Path]
):
    run = write_run(tmp_path / "run", untrained, ())
    for number, name in enumerate("ac"):  # ids of the run, other files
        write_slide(tmp_path / f"{name}.tif", dark=number == 1, seed=50 + number)
    site = tmp_path / "site.csv"
    site.write_text("slide_id,path,label\na,a.tif,normal\nc,c.tif,tumor\n")
    (made,) = calibrate_runs(run, site, device="cpu", external=True, max_disagreement=0.5)
    assert sum(made.rule.slides.values()) == 2
    assert Checkpoint.load(run).stopping == made.rule
    with pytest.raises(EvaluationError, match=r"2 of the 2 slides were used for .*calibration"):
        evaluate(run, site, tmp_path / "e", external=True, budget="settled", device="cpu")
    metrics_of(run, cohort, tmp_path / "own", "settled")
    evaluate(run, site, tmp_path / "all", external=True, device="cpu", report=False)  # no rule


def test_test_slides_that_made_the_rule_are_not_evaluated_with_it(
    cohort: Path, untrained: Checkpoint, tmp_path: Path
):
    run = write_run(tmp_path / "run", untrained)
    few = tmp_path / "few.csv"  # c, a test slide of the run, under another name
    few.write_text(f"slide_id,path,label\nnew,{cohort.parent / 'c.tif'},normal\n")
    calibrate_runs(run, few, device="cpu", external=True, max_disagreement=0.5)
    with pytest.raises(EvaluationError, match=r"1 of the 2 slides.* calibration \(c\)"):
        evaluate(run, cohort, tmp_path / "e", budget="settled", device="cpu")
    evaluate(run, cohort, tmp_path / "own", device="cpu", report=False)  # without the rule


def test_no_fold_predicts_a_slide_that_made_its_rule(
    cohort: Path, untrained: Checkpoint, tmp_path: Path
):
    for name, tested in (("fold-0", "ab"), ("fold-1", "cd")):
        write_run(tmp_path / name, untrained, ())
        rows = [f"{each},{each},normal,{'test' if each in tested else 'train'}" for each in PARTS]
        split = "\n".join(["slide_id,patient_id,label,split", *rows])
        (tmp_path / name / "split.csv").write_text(split)
    few = tmp_path / "few.csv"
    few.write_text(f"slide_id,path,label\nnew,{cohort.parent / 'c.tif'},normal\n")
    calibrate_runs(tmp_path, few, device="cpu", external=True, max_disagreement=0.5)
    with pytest.raises(EvaluationError, match=r"1 of the 4 slides.* calibration \(c\)"):
        evaluate(tmp_path, cohort, tmp_path / "e", budget="settled", device="cpu")


def test_folds_are_calibrated_together_or_not_at_all(
    cohort: Path, untrained: Checkpoint, tmp_path: Path
):
    write_run(tmp_path / "fold-0", untrained)
    (tmp_path / "fold-1").mkdir()
    with pytest.raises(CheckpointError, match="fold-1 is not finished"):
        calibrate_runs(tmp_path, cohort, device="cpu")


def test_training_slides_make_no_rule(cohort: Path, untrained: Checkpoint, tmp_path: Path):
    training = TrainingProvenance(
        0, 1, {"train": ["z"]}, fingerprints={"z": file_fingerprint(cohort.parent / "a.tif")}
    )
    replace(untrained, training=training).save(tmp_path)
    with pytest.raises(EvaluationError, match=r"1 of the 4 slides were used for training"):
        calibrate_runs(tmp_path, cohort, device="cpu", external=True)


@pytest.mark.parametrize("budget", ["seconds=2", "share=5%", "settled"])
def test_a_model_that_does_not_zoom_has_no_budget(untrained: Checkpoint, budget: str):
    baseline = replace(
        untrained, model_name="abmil", slide=replace(untrained.slide, magnifications=(10.0,))
    )
    with pytest.raises(BudgetError, match=r"model abmil visits every patch"):
        given_budget(baseline, budget)


def test_the_commands_print_the_rule_and_the_check(
    run: Path, cohort: Path, tmp_path: Path, parfocal: Callable[..., CommandResult]
):
    made = parfocal("calibrate", run, cohort, "--max-disagreement", 0.5, "--device", "cpu")
    assert made.code == 0
    assert f"{run}: settled:" in made.out
    wrong = parfocal("evaluate", run, cohort, "--budget", "share=500%", "--out", tmp_path / "e")
    assert wrong.code == 2
    assert "a share of the patches is at most 100%" in wrong.err
    refused = parfocal(
        "predict", run, cohort.parent / "c.tif", "--budget", "weeks=2", "--out", tmp_path / "p"
    )
    assert refused.code == 2
    assert "'weeks' is not a unit" in refused.err
