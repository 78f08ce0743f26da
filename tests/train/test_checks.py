"""Cohorts that cannot be trained on are refused with a reason."""

from dataclasses import replace

import pytest

from parfocal.dataset import Cohort
from parfocal.features.open_folder import open_features
from parfocal.grid import Reach, Squares
from parfocal.train import RunError, train
from parfocal.train.checks import (
    describe_unreadable,
    log_reach,
    refuse_missing_outlines,
    refuse_too_few,
)

LABELS = ("ill", "well")


@pytest.fixture
def slides(cohort: Cohort):
    """One slide of each class: 000 is ill, 001 is well."""
    return cohort.slides[:2]


def test_slides_of_every_class_are_accepted(slides):
    assert refuse_too_few(slides, slides, {}, LABELS) is None
    assert refuse_too_few(slides, (), {}, LABELS) is None  # a refit has no validation slides


def test_a_class_without_a_training_slide_is_refused_if_no_slide_failed(slides):
    message = r"^there is no training slide of class 'well'; add slides, or change the split"
    with pytest.raises(RunError, match=message):
        refuse_too_few(slides[:1], slides, {}, LABELS)


def test_a_class_whose_training_slides_failed_is_refused_with_the_reason(slides):
    message = (
        r"^no training slide of class 'well' is left: 1 slide failed, the first is 001 "
        r"\(cannot be read\.\) Replace them, or add slides\.$"
    )
    with pytest.raises(RunError, match=message):
        refuse_too_few(slides, (), {"001": "cannot be read."}, LABELS)


def test_validation_slides_that_all_failed_are_refused(slides):
    with pytest.raises(RunError, match="no validation slide is left: 1 slide failed"):
        refuse_too_few(slides, [replace(slides[0], slide_id="9")], {"9": "damaged."}, LABELS)


def test_slides_that_cannot_be_read_are_listed_once_for_each_reason():
    unreadable = {f"{n:03}": f"{n:03}.svs: damaged at x=3, y=7. Copy it." for n in range(12)}
    unreadable["blank"] = "blank.svs: no tissue found. View it."
    assert describe_unreadable(unreadable, 40, task="train") == (
        "13 of 40 slides cannot be read (000.svs, 001.svs, 002.svs and 9 more: damaged at x=3, "
        "y=7. Copy it; blank.svs: no tissue found. View it). Repair or remove them, or train "
        "without them with --skip-unreadable; `parfocal inspect` lists all."
    )


def test_slides_with_stored_features_are_listed_by_features(cohort: Cohort):
    features = open_features(cohort.source.parent / "features")
    message = describe_unreadable({"1": "damaged."}, 2, task="train", features=features)
    assert message.endswith("with --skip-unreadable; `parfocal features` lists all.")
    message = describe_unreadable({"1": "damaged."}, 1, task="train", features=features)
    assert message.endswith("Repair or remove them; `parfocal features` lists all.")


def test_at_most_five_kinds_of_reasons_are_listed():
    unreadable = dict(
        zip("abcdefg", ("one", "two", "three", "four", "five", "six", "1"), strict=True)
    )
    assert "; e: five; ...)" in describe_unreadable(unreadable, 9, task="compare")


def test_a_slide_with_a_lesion_needs_outlines(slides):
    assert refuse_missing_outlines(slides[1:], "well") is None
    with pytest.raises(RunError, match=r"slide 000 \(ill\) has no outlines, and the model is"):
        refuse_missing_outlines(slides, "well")


def test_an_unknown_stratum_is_refused(cohort, settings, tmp_path):
    excluded = replace(settings, train=replace(settings.train, exclude_strata=("micro",)))
    message = r"train\.exclude_strata: no slide has stratum 'micro' \(known: none\); correct or rem"
    with pytest.raises(RunError, match=message):
        train(cohort, excluded, tmp_path / "run", features=tmp_path / "features", device="cpu")


def reach(unreachable: float) -> Reach:
    return Reach(unreachable, 0.0, True, Squares(256.0, (), ()))


def test_the_tissue_out_of_reach_is_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    log_reach(tmp_path, {"a": reach(0.0), "b": reach(0.0)})
    assert "0.0% of the tissue out of reach, on average over 2 slides\n" in caplog.text
    log_reach(tmp_path, {"a": reach(0.1), "b": reach(0.3)})
    assert "over 2 slides; the most, 30.0%, in slide b\n" in caplog.text


def test_an_unknown_reach_is_not_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    log_reach(tmp_path, {})
    assert not caplog.text
