import csv
import json

import numpy as np
import pytest
import torch

from parfocal.dataset import CohortError
from parfocal.evaluate.run import evaluate
from parfocal.evaluate.task_scores import few_patients
from parfocal.hub.card import model_card
from parfocal.hub.facts import read_facts
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.description import CheckpointError
from parfocal.models.ensemble import load_trained
from parfocal.settings import load_settings
from parfocal.settings.errors import SettingsError
from parfocal.tasks import read_task_cohort, task_of
from parfocal.train import make_splits, train
from train_features import write_features

HEADER = ["slide_id", "path", "months", "dead", "area", "er", "pr", "grade"]
SETTINGS = (
    *("slide.patch_size=16", "slide.magnifications=2.5,5", "encoder.name=tiny", "model.k=1"),
    *("model.dim=16", "model.sigma=0.05", "train.learning_rate=0.01", "train.epochs=6"),
)
FLAGS = {
    "survival": {"train.time": "months", "train.event": "dead", "train.risk_set": 8},
    "hazards": {"train.time": "months", "train.event": "dead", "train.time_bins": 2},
    "regression": {"train.target": ["area"]},
    "multilabel": {"train.target": ["er", "pr"]},
    "ordinal": {"train.target": ["grade"]},
}
FIRST_SCORE = {
    **{"survival": "concordance", "hazards": "concordance", "regression": "r2"},
    **{"multilabel": "auroc_macro", "ordinal": "quadratic_kappa"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Toy slides of 20 patients; those with a lesion die early and have all other targets."""
    folder, rng = tmp_path_factory.mktemp("tasks"), np.random.default_rng(0)
    rows = []
    for number in range(20):
        ill, name = number % 2, f"{number:03d}"
        write_features(folder / "features", name, rng, 1 if ill else -1)
        months = round(float(rng.uniform(1, 5) if ill else rng.uniform(20, 30)), 2)
        dead, er = int(number % 5 > 0), "" if number == 4 else 1 - ill
        rows.append([name, f"{name}.svs", months, dead, 3 * ill, er, ill, 2 * ill])
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return folder


def settings_of(name, recipe="zoommil-eff", **flags):
    overrides = SETTINGS if recipe == "zoommil-eff" else ()
    return load_settings(recipe, None, overrides, {"train.task": name, **FLAGS[name], **flags})


def trained(folder, out, name, **flags):
    settings = settings_of(name, **flags)
    cohort = read_task_cohort(folder / "cohort.csv", settings.train.build_task())
    return train(cohort, settings, out, features=folder / "features", device="cpu", progress=False)


@pytest.mark.parametrize(
    "name",
    [name if name == "survival" else pytest.param(name, marks=pytest.mark.slow) for name in FLAGS],
)
def test_each_task_is_trained_and_evaluated(folder, tmp_path, name):
    summary = trained(folder, tmp_path / "run", name)
    assert summary.quality != ""
    evaluation = evaluate(
        tmp_path / "run",
        folder / "cohort.csv",
        tmp_path / "evaluation",
        split="all",
        features=folder / "features",
        device="cpu",
        allow_training_slides=True,
        resamples=20,
    )
    assert evaluation.scores[FIRST_SCORE[name]].value > 0.7
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert metrics["task"]["name"] == name
    scores = metrics["slides"]["scores"]
    assert scores[FIRST_SCORE[name]]["value"] == evaluation.scores[FIRST_SCORE[name]].value
    assert metrics["patients"]["scores"] is not None
    page = (tmp_path / "evaluation" / "report.html").read_text()
    assert "could not be" not in page
    assert f"{evaluation.scores[FIRST_SCORE[name]].value:.3f}" in page
    with (tmp_path / "evaluation" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    model = Checkpoint.load(tmp_path / "run")
    facts, task = read_facts(tmp_path / "run", model, tmp_path / "evaluation"), task_of(model)
    card = model_card(model, facts, name="hf:a/b")
    assert ("classifies whole-slide images" in card) == bool(task.classes)
    assert evaluation.scores[FIRST_SCORE[name]].short in card
    if name == "survival":
        assert 0 <= evaluation.scores["integrated_brier"].value < 0.25
    assert evaluation.warnings == ()
    few = few_patients(task, evaluation.results[:5])
    with_event = "4 patients with an event" if name in ("survival", "hazards") else "5 patients"
    assert few == f"{with_event} (fewer than 10): scores are rough"
    if task.classes:
        assert {row["label"] for row in rows} == {"0", "2"}
    else:
        assert set(task.columns) < set(rows[0])
        assert all(float(rows[0][key]) is not None for key in rows[0] if key.startswith("pred_"))


def test_folds_of_hazards_answer_together(folder, tmp_path):
    trained(folder, tmp_path, "hazards", **{"train.folds": 2, "train.epochs": 1})
    joined = load_trained(tmp_path)
    edges = {tuple(each.task["edges"]) for each in joined.members.values()}
    assert edges == {tuple(joined.task["edges"])}


@pytest.mark.slow
def test_a_run_of_survival_is_repeatable_and_can_be_resumed(folder, tmp_path):
    for out in ("one", "two"):
        trained(folder, tmp_path / out, "survival", **{"train.epochs": 2})
    one, two = (Checkpoint.load(tmp_path / out) for out in ("one", "two"))
    assert one.weights_hash == two.weights_hash
    header = (tmp_path / "one" / "metrics.csv").read_text().splitlines()[0]
    assert header == (
        "epoch,train_loss,val_loss,val_concordance,learning_rate,patches_encoded,seconds"
    )


def test_folds_of_survival_have_equal_numbers_of_events(folder):
    settings = settings_of("survival", **{"train.folds": 4}).train
    cohort = read_task_cohort(folder / "cohort.csv", settings.build_task())
    splits = make_splits(cohort, settings)
    assert [sum(s.values["dead"] == "1" for s in split.test) for split in splits] == [4] * 4


def test_more_folds_than_events_are_refused(folder, tmp_path):
    text = (folder / "cohort.csv").read_text().splitlines()
    rows = [line.split(",") for line in text]
    for row in rows[4:]:
        row[3] = "0"
    (tmp_path / "cohort.csv").write_text("\n".join(",".join(row) for row in rows))
    settings = settings_of("survival", **{"train.folds": 5})
    cohort = read_task_cohort(tmp_path / "cohort.csv", settings.train.build_task())
    with pytest.raises(CohortError, match="group 'event' has 2 patients, and 5 folds need"):
        train(cohort, settings, tmp_path / "run", features=folder / "features", device="cpu")


@pytest.mark.parametrize(
    ("recipe", "name", "flags", "message"),
    [
        ("clam-sb", "regression", {}, r"model.bag_weight: .* classes only .*model.bag_weight=1.0"),
        ("magnet-4", "survival", {}, r"model.auxiliary_backbone: it needs the loss of each slide"),
        ("zoommil-eff", "survival", {"train.monitor": "accuracy"}, "task survival has no accuracy"),
        ("zoommil-eff", "regression", {"train.labels": ["a", "b"]}, "task regression has no class"),
        ("zoommil-eff", "survival", {"train.event": "months"}, "is also the column of the time"),
    ],
)
def test_what_does_not_go_with_a_task_is_refused(recipe, name, flags, message):
    with pytest.raises(SettingsError, match=message):
        settings_of(name, recipe, **flags)


def test_a_task_without_its_columns_is_refused():
    with pytest.raises(SettingsError, match=r"train.time: task survival needs the column"):
        load_settings("zoommil-eff", None, (), {"train.task": "survival"})


def test_a_damaged_task_is_refused(folder, tmp_path):
    trained(folder, tmp_path / "run", "regression", **{"train.epochs": 1})
    file = tmp_path / "run" / "checkpoint.json"
    content = json.loads(file.read_text())
    content["task"]["name"] = "oracle"
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"task .* is damaged .*'oracle' is unknown"):
        task_of(Checkpoint.load(tmp_path / "run"))


def test_the_risk_of_a_stored_model_is_its_logit(folder, tmp_path):
    trained(folder, tmp_path / "run", "survival", **{"train.epochs": 1})
    task = task_of(Checkpoint.load(tmp_path / "run"))
    assert task.answer(torch.tensor([0.25])).outputs == {"risk": 0.25}


@pytest.mark.parametrize("dead", [0, 1])
def test_without_an_event_to_validate_on_the_last_epoch_is_kept(folder, tmp_path, caplog, dead):
    with (folder / "cohort.csv").open() as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["split"] = "val" if number in (10, 11) else "train"
        row["dead"] = dead if number in (10, 11) else row["dead"]
    with (tmp_path / "cohort.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    flags = {"train.epochs": 3, "train.patience": 1, "train.lr_patience": 0}
    settings = settings_of("survival", **flags)
    cohort = read_task_cohort(tmp_path / "cohort.csv", settings.train.build_task())
    run = tmp_path / "run"
    summary = train(cohort, settings, run, features=folder / "features", device="cpu")
    warning = (
        f"{run}: none of the 2 validation slides has an event (dead = 1), so the validation loss "
        "is the same in every epoch: training does not stop early, and the weights of the last "
        "epoch are kept. Raise train.val_fraction, or move such slides to val in the column split."
    )
    assert (warning in caplog.messages) == (dead == 0)
    if dead == 0:
        assert (summary.best_epoch, summary.epochs, summary.val_loss) == (3, 3, 0)
        with (run / "metrics.csv").open() as file:
            assert len({row["learning_rate"] for row in csv.DictReader(file)}) == 1
