from dataclasses import replace

from parfocal.cost import CostMeter
from parfocal.explain.record import ModelFacts, PredictionRecord, Region, SlideFacts

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
