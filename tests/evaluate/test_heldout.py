import logging
from pathlib import Path

from parfocal.dataset import Cohort, CohortSlide
from parfocal.dataset.cohort_slide import Part
from parfocal.evaluate.heldout import select_slides


def slide(name: str, *folds: Part | None) -> CohortSlide:
    return CohortSlide(name, Path(name), "ab"[len(name) % 2], name, 2, fold_parts=folds)


def test_slides_that_a_table_leaves_out_of_a_fold_are_not_evaluated(caplog):
    cohort = Cohort(
        Path("cohort.csv"),
        (slide("t", "train"), slide("u", "test"), slide("v", None)),
        ("a", "b"),
    )
    with caplog.at_level(logging.INFO, "parfocal"):
        selected = select_slides(cohort, {"t": "train", "u": "test"}, "test")
    assert [each.slide_id for each in selected] == ["u"]
    assert "1 of the 3 slides are in no part of this fold" in caplog.text
    assert len(select_slides(cohort, {"t": "train", "u": "test"}, "all")) == 3
    assert len(select_slides(cohort, {}, "test")) == 3  # an external cohort
