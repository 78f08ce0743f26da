"""A model that learns from a trained one (`train.teacher`)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.compare import Candidate, compare
from parfocal.dataset import Cohort, read_cohort
from parfocal.evaluate.run import evaluate
from parfocal.features.header import SlideSettings
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.covariates import Covariate, CovariateEncoding, attach_covariates
from parfocal.models.unit import Unit
from parfocal.settings import RunSettings, SettingsError, load_settings
from parfocal.tasks.ordinal import Ordinal
from parfocal.train import RunError, RunSummary, train
from train_features import write_features

AGE = CovariateEncoding((Covariate("age", "number"),))
SMALL = ["slide.patch_size=16", "encoder.name=tiny", "train.epochs=1"]


def with_covariates(trained: Checkpoint, encoding: CovariateEncoding) -> Checkpoint:
    attach_covariates(trained.model, encoding, 2)
    return replace(trained, unit=Unit(covariates=encoding))


def recipe(name: str, *overrides: str, teacher: Path | None = None) -> RunSettings:
    settings = load_settings(name, overrides=[*SMALL, *overrides])
    return replace(settings, train=replace(settings.train, teacher=teacher))


def student(teacher: Path | None, *overrides: str) -> RunSettings:
    sizes = ("slide.magnifications=[2.5,5]", "model.dim=8")
    return recipe("coarse-student", *sizes, *overrides, teacher=teacher)


def run_training(cohort: Cohort, settings: RunSettings, out: Path) -> RunSummary:
    features = cohort.source.parent / "features"
    return train(cohort, settings, out, features=features, device="cpu", progress=False)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder, rng = tmp_path_factory.mktemp("cohort"), np.random.default_rng(0)
    rows = ["slide_id,path,label"]
    for number in range(14):
        write_features(folder / "features", f"{number:03d}", rng, 1 if number % 2 else -1)
        rows.append(f"{number:03d},{number:03d}.svs,{('well', 'ill')[number % 2]}")
    (folder / "cohort.csv").write_text("\n".join(rows))
    return read_cohort(folder / "cohort.csv")


@pytest.fixture(scope="module")
def teacher(cohort: Cohort) -> Path:
    run = cohort.source.parent / "teacher"
    run_training(cohort, recipe("abmil", "slide.magnifications=5"), run)
    return run


@pytest.fixture(scope="module")
def trained_student(cohort: Cohort, teacher: Path) -> Path:
    run = cohort.source.parent / "student"
    run_training(cohort, student(teacher), run)
    return run


def test_a_coarse_student_reads_the_lowest_magnification_only(cohort, trained_student, tmp_path):
    trained = Checkpoint.load(trained_student)
    assert not any("teacher" in name for name in trained.model.state_dict())
    features = cohort.source.parent / "features"
    result = evaluate(trained_student, cohort.source, tmp_path / "evaluation", features=features)
    assert [len(each.steps) for each in result.results] == [1] * len(result.results)
    assert {each.patches for each in result.results} == {6}  # of 24 at 5x
    assert {each.share_patches for each in result.results} == {0.25}


@pytest.mark.slow
def test_what_the_teacher_answers_changes_the_student(cohort, teacher, trained_student, tmp_path):
    weights = [f"model.{each}_weight=0" for each in ("logit", "attention")]
    run_training(cohort, student(teacher, *weights), tmp_path / "without")
    first, second = (
        Checkpoint.load(run).model.state_dict() for run in (trained_student, tmp_path / "without")
    )
    assert not torch.equal(first["classifier.weight"], second["classifier.weight"])


def test_the_slides_of_the_teacher_are_recorded_in_the_student(teacher, trained_student):
    before, after = (Checkpoint.load(run).training for run in (teacher, trained_student))
    assert set(before.slides["train"]) <= set(after.slides["train"])
    assert before.fingerprints.items() <= after.fingerprints.items()


def test_a_ranking_is_that_of_a_trained_model(cohort, teacher, tmp_path):
    coarse = replace(Checkpoint.load(teacher), slide=SlideSettings((2.5,), 16), stored_hash=None)
    coarse.save(tmp_path / "coarse")
    sizes = ("slide.magnifications=[2.5,5]", "model.ranking=teacher")
    settings = recipe("topk", *sizes, teacher=tmp_path / "coarse")
    run_training(cohort, settings, tmp_path / "ranked")
    ranked = Checkpoint.load(tmp_path / "ranked").model.state_dict()
    for name, weight in coarse.model.state_dict().items():
        assert ranked[f"ranker.{name}"].equal(weight)


def test_a_model_without_its_teacher_is_refused(cohort, tmp_path):
    with pytest.raises(
        RunError, match=r"train\.teacher is missing, but model coarse-student needs a trained"
    ):
        run_training(cohort, student(None), tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_a_teacher_is_refused_before_any_slide_is_opened(cohort, tmp_path):
    settings = student(tmp_path / "nowhere")
    with pytest.raises(RunError, match="nowhere is not the folder of a finished run"):
        train(cohort, settings, tmp_path / "student", device="cpu")  # there are no slide files
    with pytest.raises(RunError, match="nowhere is not the folder of a finished run"):
        compare(cohort.source, [Candidate("coarse-student", settings)], tmp_path / "out")


def test_a_teacher_that_was_never_trained_is_refused(cohort, tmp_path):
    with pytest.raises(RunError, match=r"nowhere is not the folder of a finished run; train one"):
        run_training(cohort, student(tmp_path / "nowhere"), tmp_path / "student")


UNFIT: dict[str, tuple[Callable[[Checkpoint], Checkpoint], str]] = {
    "classes": (
        lambda trained: replace(trained, labels=("a", "b")),
        r"its classes is \['a', 'b'\], but \['ill', 'well'\] in this run; train a teacher with",
    ),
    "weights of the encoder": (
        lambda trained: replace(
            trained, encoders=(replace(trained.encoders[0], weights_hash="0" * 16),)
        ),
        r"its encoder tiny has other weights or another output; train a teacher with",
    ),
    "encoder": (
        lambda trained: replace(trained, encoders=(replace(trained.encoders[0], name="other"),)),
        r"its encoder is other, but tiny in this run; train a teacher with the settings",
    ),
    "task": (
        lambda trained: replace(trained, task=Ordinal(trained.labels, "grade").to_dict()),
        r"its task is ordinal of grade, but classification of label in this run; train a teacher",
    ),
    "covariates": (
        lambda trained: with_covariates(trained, AGE),
        r"it also needs age, which this run does not provide; train a teacher without",
    ),
    "magnification": (
        lambda trained: replace(trained, slide=SlideSettings((2.5,), 16)),
        r"its magnification is 2.5x, but 5x in this run; train a teacher",
    ),
    "patch size": (
        lambda trained: replace(trained, slide=SlideSettings((5.0,), 32)),
        r"its patch size is 32, but 16 in this run; train a teacher",
    ),
}


@pytest.mark.parametrize("change", UNFIT)
def test_a_teacher_that_does_not_fit_is_refused(cohort, teacher, tmp_path, change):
    alter, message = UNFIT[change]
    replace(alter(Checkpoint.load(teacher)), stored_hash=None).save(tmp_path / "teacher")
    with pytest.raises(RunError, match=message):
        run_training(cohort, student(tmp_path / "teacher"), tmp_path / "student")


def test_a_teacher_with_folds_is_asked_for_one_of_them(cohort, teacher, tmp_path):
    Checkpoint.load(teacher).save(tmp_path / "t" / "fold-0")
    with pytest.raises(RunError, match=r"is a run with folds; give one of them, such as .*fold-0"):
        run_training(cohort, student(tmp_path / "t"), tmp_path / "student")


def test_a_ranking_without_a_teacher_ignores_none():
    with pytest.raises(SettingsError, match=r"model topk does not .* set model\.ranking=teacher"):
        recipe("topk", "train.teacher=run")


def test_a_teacher_that_zooms_is_refused(cohort, untrained, tmp_path):
    untrained.save(tmp_path / "zooms")
    message = r"model zoommil does not use features of one magnification; train one, such as"
    with pytest.raises(RunError, match=message):
        run_training(cohort, student(tmp_path / "zooms"), tmp_path / "student")


def test_a_teacher_that_was_trained_on_test_slides_is_refused(cohort, teacher, tmp_path):
    message = r"it was trained on \d+ of the \d+ test slides of this run, such as \d+; train both"
    with pytest.raises(RunError, match=message):
        run_training(cohort, student(teacher, "train.seed=5"), tmp_path / "student")


def test_a_teacher_for_a_model_that_has_none_is_refused():
    with pytest.raises(SettingsError, match=r"train\.teacher: model abmil does not learn from ano"):
        load_settings("abmil", overrides=["train.teacher=run"])


@pytest.mark.slow
def test_with_folds_the_teacher_is_the_run_of_the_same_fold(cohort, tmp_path):
    folds = "train.folds=2"
    run_training(cohort, recipe("abmil", "slide.magnifications=5", folds), tmp_path / "t")
    run_training(cohort, student(tmp_path / "t", folds), tmp_path / "s")
    for fold in ("fold-0", "fold-1"):
        slides = [Checkpoint.load(tmp_path / each / fold).training.slides for each in "ts"]
        assert slides[0] == slides[1]
