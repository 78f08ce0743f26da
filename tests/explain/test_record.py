from dataclasses import replace

import pytest

from parfocal.cost import Cost, CostMeter, ExhaustiveCost
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import ModelFacts, Region, SlideFacts, ThresholdFacts
from parfocal.grid import Reach, Squares

PLACE = {"x": 0.0, "y": 0.0, "width": 1.0, "height": 1.0, "mpp": 1.0, "score": 1.0}


def region(name: str, order: int | None) -> Region:
    of = {"score_kind": "sampling_probability", "parent": None, "selected": False}
    return Region(id=name, step=0, order=order, **PLACE, **of)


def record_of(*regions: Region) -> PredictionRecord:
    return PredictionRecord(
        slide=SlideFacts("a", None, "0" * 32, (9, 9), 1.0, "given"),
        model=ModelFacts("any", "0" * 64, None, None, (10.0,), 224, "0.1"),
        probabilities={"normal": 0.25, "tumor": 0.75},
        stop_reason="done",
        mpps=(4.0, 1.0),
        regions=regions,
        cost=CostMeter().total(),
    )


def sharp(name: str, order: int | None, score: float, kind: str = "attention") -> Region:
    return replace(region(name, order), step=1, score=score, score_kind=kind)


def test_top_regions_have_the_highest_scores_of_the_highest_magnification():
    low = region("low", 0)  # of score 1
    regions = (low, sharp("a", 1, 0.2), sharp("b", 2, 0.5), sharp("unseen", None, 0.9))
    assert [each.id for each in record_of(*regions).top_regions(1)] == ["b"]
    assert [each.id for each in record_of(*regions).top_regions(9)] == ["b", "a"]


def test_top_leaves_raised_the_class_probability_most():
    # From 0.5 for two classes: down 0.1, up 0.4, down 0.05.
    leaves = (
        sharp(str(at), at, score, "class_probability") for at, score in enumerate((0.4, 0.8, 0.75))
    )
    assert [each.id for each in record_of(*leaves).top_regions(2)] == ["1", "2"]


def zooming(selected: int, *, patches: int, of: int, kind: str = "attention") -> PredictionRecord:
    """Return a prediction that selected some of two patches and encoded `patches` of `of`."""
    first = [
        replace(region(f"0-{row}", row), selected=row < selected, score_kind=kind) for row in (0, 1)
    ]
    cost = Cost((2, patches - 2), 0, None, 0, {"total": 1.0}, ExhaustiveCost(10.0, of, of, 0, 0))
    return replace(record_of(*first, sharp("1-0", 2, 1.0)), cost=cost)


def test_there_is_nothing_to_skip_if_all_patches_are_selected_or_cost_as_much():
    assert zooming(1, patches=5, of=8).nothing_to_skip is None
    assert "more than 100%" not in zooming(1, patches=5, of=8).bill
    costly = zooming(1, patches=8, of=8)
    assert costly.nothing_to_skip == (
        "nothing to skip on this slide: encoding all 8 patches at 10x costs no more"
    )
    assert costly.bill.endswith(
        f"8 of 8 patches (100.0%), no pixels read, 0 of 0 MAC, 1.0 s; {costly.nothing_to_skip}"
    )
    everything = zooming(2, patches=5, of=8).nothing_to_skip
    assert everything == "nothing to skip on this slide at 2.5x: all 2 patches are selected"


def test_a_model_that_does_not_zoom_skips_nothing_by_design():
    assert zooming(0, patches=9, of=8).nothing_to_skip is None
    one = zooming(2, patches=9, of=8)
    assert replace(one, mpps=(1.0,)).nothing_to_skip is None


def test_sampled_patches_are_not_zoomed_into():
    assert zooming(2, patches=5, of=8, kind="sampling_probability").nothing_to_skip is None


@pytest.mark.parametrize(
    ("unreachable", "text"), [(0.0, "0.0%"), (0.26, "26.0%"), (0.0004, "0.04%")]
)
def test_the_bill_has_the_tissue_out_of_reach(unreachable, text):
    reach = Reach(unreachable, 0.01, True, Squares(256.0, ((0, 0, 2),), ()))
    record = replace(zooming(1, patches=5, of=8), reach=reach)
    assert record.bill.endswith(f" s, {text} of the tissue out of reach")
    assert "reach" not in replace(record, reach=None).bill


def test_the_bill_explains_more_bytes_than_the_file_has_and_counts_one_request():
    record = zooming(1, patches=5, of=8)
    far = replace(record.slide, path="https://host/a.svs")
    for read, requests, text in (
        (15, 1, "read 15 of 10 bytes (150.0%, parts of it more than once) in 1 request"),
        (5, 1200, "read 5 of 10 bytes (50.0%) in 1,200 requests"),
    ):
        cost = replace(record.cost, bytes_read=read, file_bytes=10, requests=requests)
        assert text in replace(record, slide=far, cost=cost).bill + ","


@pytest.mark.parametrize(
    ("label", "answer"),
    [
        ("tumor", "tumor 0.70 (threshold tumor >= 0.37)"),
        ("1", "1: 0.70 (threshold 1 >= 0.37)"),
        ("HER2 1+", "HER2 1+: 0.70 (threshold HER2 1+ >= 0.37)"),
    ],
)
def test_a_class_with_a_digit_is_set_off_from_its_probability(label, answer):
    record = replace(
        record_of(),
        probabilities={"other": 0.3, label: 0.7},
        threshold=ThresholdFacts(label, 0.37, "youden"),
    )
    assert record.answer == answer
