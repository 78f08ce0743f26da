"""In a comparison, a model learns from the run of another one with the same seed."""

from pathlib import Path

from parfocal.compare import load_candidates
from parfocal.compare.teachers import teachers_first, with_teacher_run

NAMES = ("coarse-student", "topk", "abmil", "clam-sb")


def test_models_that_learn_from_others_are_run_last():
    candidates = load_candidates(NAMES)
    ordered = [each.name for each in teachers_first(candidates)]
    assert ordered == ["abmil", "clam-sb", "coarse-student", "topk"]


def test_the_teacher_is_the_run_of_abmil_or_of_a_named_model():
    out = Path("out")
    for named, folder in (
        ((), out / "abmil" / "seed-2"),
        (("coarse-student:train.teacher=clam-sb",), out / "clam-sb" / "seed-2"),
        (("coarse-student:train.teacher=some/run",), Path("some/run")),
    ):
        settings = load_candidates(NAMES, overrides=named)[0].settings
        found = with_teacher_run(settings, NAMES, out, seed=2)
        assert found.train.teacher == folder


def test_without_abmil_no_teacher_is_chosen():
    settings = load_candidates(NAMES)[0].settings
    assert with_teacher_run(settings, ("coarse-student",), Path("out"), seed=0) == settings


def test_a_ranking_without_labels_gets_no_teacher():
    settings = load_candidates(NAMES)[1].settings
    assert with_teacher_run(settings, NAMES, Path("out"), seed=0) == settings
    taught = load_candidates(NAMES, overrides=["topk:model.ranking=teacher"])[1].settings
    run = with_teacher_run(taught, NAMES, Path("out"), seed=0).train.teacher
    assert run == Path("out/abmil/seed-0")
