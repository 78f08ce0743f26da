"""A model that learns from a trained one (`train.teacher`)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parfocal.dataset import Cohort
from parfocal.evaluate.run import evaluate
from parfocal.models.checkpoint import Checkpoint
from parfocal.settings import RunSettings, SettingsError, load_settings
from parfocal.train import RunError, RunSummary, train

SMALL = ["slide.patch_size=16", "encoder.name=tiny", "train.epochs=1"]


def recipe(name: str, *overrides: str) -> RunSettings:
    return load_settings(name, overrides=[*SMALL, *overrides])


def run_training(cohort: Cohort, settings: RunSettings, out: Path) -> RunSummary:
    features = cohort.source.parent / "features"
    return train(cohort, settings, out, features=features, device="cpu", progress=False)


def student(teacher: Path | None, *overrides: str) -> RunSettings:
    settings = recipe("coarse-student", "slide.magnifications=[2.5,5]", "model.dim=8", *overrides)
    return replace(settings, train=replace(settings.train, teacher=teacher))


@pytest.fixture
def teacher(cohort: Cohort, tmp_path: Path) -> Path:
    run_training(cohort, recipe("abmil", "slide.magnifications=5"), tmp_path / "teacher")
    return tmp_path / "teacher"


def test_a_coarse_student_is_trained_and_evaluated(cohort, tmp_path, teacher):
    run_training(cohort, student(teacher), tmp_path / "student")
    trained = Checkpoint.load(tmp_path / "student")
    assert not any("teacher" in name for name in trained.model.state_dict())
    out = tmp_path / "evaluation"
    result = evaluate(
        tmp_path / "student", cohort.source, out, features=cohort.source.parent / "features"
    )
    assert [len(each.steps) for each in result.results] == [1] * len(result.results)
    assert {each.patches for each in result.results} == {6}  # of 24 at 5x
    assert {each.share_patches for each in result.results} == {0.25}


def test_what_the_teacher_answers_changes_the_student(cohort, tmp_path, teacher):
    for name, weight in (("with", 1.0), ("without", 0.0)):
        weights = [f"model.{each}_weight={weight}" for each in ("logit", "attention")]
        run_training(cohort, student(teacher, *weights), tmp_path / name)
    first, second = (Checkpoint.load(tmp_path / name).model for name in ("with", "without"))
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def test_the_slides_of_the_teacher_are_recorded_in_the_student(cohort, tmp_path, teacher):
    run_training(cohort, student(teacher), tmp_path / "student")
    before, after = (Checkpoint.load(tmp_path / name).training for name in ("teacher", "student"))
    assert set(before.slides["train"]) <= set(after.slides["train"])
    assert before.fingerprints.items() <= after.fingerprints.items()


def test_a_ranking_is_that_of_a_trained_model(cohort, tmp_path):
    run_training(cohort, recipe("abmil", "slide.magnifications=2.5"), tmp_path / "coarse")
    settings = recipe("topk", "slide.magnifications=[2.5,5]", "model.ranking=teacher")
    settings = replace(settings, train=replace(settings.train, teacher=tmp_path / "coarse"))
    run_training(cohort, settings, tmp_path / "ranked")
    weights = Checkpoint.load(tmp_path / "coarse").model.state_dict()
    ranked = Checkpoint.load(tmp_path / "ranked").model.state_dict()
    assert all(ranked[f"ranker.{name}"].equal(weight) for name, weight in weights.items())


def test_a_model_without_its_teacher_is_refused(cohort, tmp_path):
    with pytest.raises(
        RunError, match=r"train\.teacher is missing, and model coarsestudent learns from a trained"
    ):
        run_training(cohort, student(None), tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_a_teacher_that_was_never_trained_is_refused(cohort, tmp_path):
    with pytest.raises(RunError, match=r"nowhere is not the folder of a finished run; train one"):
        run_training(cohort, student(tmp_path / "nowhere"), tmp_path / "student")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("classes", r"its classes is \['ill', 'well'\], and \['well', 'ill'\] in this run; train"),
        ("encoder", r"its encoder tiny has other weights or another output; train a teacher with"),
        ("magnification", r"its magnification is 2.5x, and 5x in this run; train a teacher"),
        ("zooms", r"model zoommil is no model of features at one magnification; train one, such"),
        ("test", r"it was trained on \d+ of the \d+ test slides of this run, such as \d+; train"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    cohort, settings, tmp_path, *, teacher, change, message
):
    own = student(teacher)
    if change == "classes":
        cohort = replace(cohort, labels=("well", "ill"))
    elif change == "encoder":
        trained = Checkpoint.load(teacher)
        other = (replace(trained.encoders[0], weights_hash="0" * 16),)
        replace(trained, encoders=other, stored_hash=None).save(teacher)
    elif change == "magnification":
        run_training(cohort, recipe("abmil", "slide.magnifications=2.5"), tmp_path / "low")
        own = student(tmp_path / "low")
    elif change == "zooms":
        run_training(
            cohort, replace(settings, train=replace(settings.train, epochs=1)), tmp_path / "zooms"
        )
        own = student(tmp_path / "zooms")
    else:
        own = replace(own, train=replace(own.train, seed=5))
    with pytest.raises(RunError, match=message):
        run_training(cohort, own, tmp_path / "student")


def test_a_teacher_for_a_model_that_has_none_is_refused():
    with pytest.raises(SettingsError, match=r"train\.teacher: model abmil does not learn from ano"):
        recipe("abmil", "train.teacher=run")


def test_with_folds_the_teacher_is_the_run_of_the_same_fold(cohort, tmp_path):
    few = replace(cohort, slides=cohort.slides[:12])
    run_training(few, recipe("abmil", "slide.magnifications=5", "train.folds=2"), tmp_path / "t")
    run_training(few, student(tmp_path / "t", "train.folds=2"), tmp_path / "s")
    for fold in ("fold-0", "fold-1"):
        slides = [Checkpoint.load(tmp_path / each / fold).training.slides for each in "ts"]
        assert slides[0] == slides[1]
