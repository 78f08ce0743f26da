"""In a comparison, a model learns from the run of another one with the same seed."""

from pathlib import Path

import pytest

from parfocal.compare import compare, load_candidates
from parfocal.compare.candidate import ComparisonError
from parfocal.compare.run import check_comparison
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
    ranked = load_candidates(NAMES, overrides=["topk:model.ranking=teacher"])[1].settings
    run = with_teacher_run(ranked, NAMES, Path("out"), seed=0).train.teacher
    assert run == Path("out/abmil/seed-0")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["topk:model.ranking=teacher"],
            "topk: its teacher abmil is at 10x, but it needs one at 5x",
        ),
        (
            ["coarse-student:train.teacher=coarse-student"],
            "its teacher coarse-student is at 1.25x, 10x, but it needs one at 10x",
        ),
    ],
)
def test_a_teacher_at_other_magnifications_is_refused_before_any_training(overrides, message):
    check_comparison(load_candidates(NAMES))
    with pytest.raises(ComparisonError, match=message):
        check_comparison(load_candidates(NAMES, overrides=overrides))


@pytest.mark.slow
def test_the_new_models_are_compared_with_their_teacher(tmp_path, write_slide):
    rows = ["slide_id,path,label,split"]
    for number in range(16):
        write_slide(tmp_path / f"{number}.tif", dark=number % 2 == 1, seed=number)
        split = ("train", "train", "val", "test")[number // 2 % 4]
        rows.append(f"{number},{number}.tif,{('normal', 'tumor')[number % 2]},{split}")
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    names = ["coarse-student", "abmil", "paths", "topk", "mean-mlp"]
    overrides = [
        "slide.patch_size=64",
        "coarse-student:slide.magnifications=[2.5,10]",
        "paths:slide.magnifications=[2.5,5,10]",
        "paths:model.k=2",
    ]
    candidates = load_candidates(names, overrides=overrides, epochs=1, encoder="tiny")
    rows = compare(
        tmp_path / "cohort.csv", candidates, tmp_path / "out", device="cpu", timed=1, resamples=20
    )
    found = {row.result.name: row.result for row in rows}
    assert [result.reason for result in found.values()] == [None] * 5
    assert found["coarse-student"].patches < found["abmil"].patches / 10
    assert found["paths"].patches < found["abmil"].patches
    assert found["mean-mlp"].patches == found["abmil"].patches
    page = (tmp_path / "out" / "coarse-student" / "seed-0" / "settings.yaml").read_text()
    assert f"teacher: {tmp_path / 'out' / 'abmil' / 'seed-0'}" in page
