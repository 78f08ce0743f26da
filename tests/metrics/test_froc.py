"""FROC after CAMELYON16's rule, with numbers small enough to check by hand."""

import pytest

from parfocal.metrics import IGNORED, OUTSIDE, SlideDetections, froc


def test_the_curve_counts_lesions_once_and_false_positives_of_all_slides():
    slides = [
        SlideDetections(2, (0.9, 0.8, 0.7, 0.95), (0, 0, OUTSIDE, IGNORED)),
        SlideDetections(0, (0.85,), (OUTSIDE,)),  # a slide without lesions
        SlideDetections(1, (0.6,), (0,)),
        SlideDetections(0, (), ()),
    ]
    curve = froc(slides)
    # Thresholds 0.9, 0.85, 0.7, 0.6: lesion, false, false, lesion; 3 lesions on 4 slides.
    assert curve.false_positives == (0, 0, 0.25, 0.5, 0.5)
    assert curve.sensitivity == pytest.approx((0, 1 / 3, 1 / 3, 1 / 3, 2 / 3))
    assert curve.score == pytest.approx((1 / 3 + 5 * 2 / 3) / 6)
    assert (curve.lesions, curve.slides) == (3, 4)


def test_without_detections_nothing_is_found():
    curve = froc([SlideDetections(2, (), ())])
    assert (curve.score, curve.sensitivity) == (0, (0,))


def test_without_lesions_the_score_is_undefined():
    curve = froc([SlideDetections(0, (0.5,), (OUTSIDE,))])
    assert curve.score is None
    assert curve.reason == "undefined: no lesion with an outline that counts"
    assert froc([]).score is None
