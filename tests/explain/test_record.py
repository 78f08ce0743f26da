from dataclasses import replace

import pytest

from parfocal.cost import CostMeter
from parfocal.explain.record import (
    ModelFacts,
    PredictionRecord,
    Region,
    SlideFacts,
    with_running_probabilities,
)

PLACE = {"x": 0.0, "y": 0.0, "width": 1.0, "height": 1.0, "mpp": 1.0, "score": 1.0}


def region(name: str, order: int | None) -> Region:
    of = {"score_kind": "probability", "parent": None, "selected": False}
    return Region(id=name, step=0, order=order, **PLACE, **of)


def test_running_answers_are_those_of_the_last_places_looked_at():
    regions = [region("a", 0), region("b", 2), region("c", None), region("d", 1)]
    told = list(with_running_probabilities(regions, [{"tumor": 0.4}, {"tumor": 0.7}]))
    assert [each.id for each in told] == ["a", "b", "c", "d"]
    assert [each.probabilities for each in told] == [None, {"tumor": 0.7}, None, {"tumor": 0.4}]


@pytest.mark.parametrize("order", [0, None])
def test_regions_of_a_model_that_answers_once_stay_as_they_are(order):
    assert list(with_running_probabilities([region("a", order)], [])) == [region("a", order)]


def record_of(*regions: Region) -> PredictionRecord:
    return PredictionRecord(
        slide=SlideFacts("a", None, "0" * 32, (9, 9), 1.0, "given"),
        model=ModelFacts("any", "0" * 64, None, None, (10.0,), 224, "0.1"),
        probabilities={"normal": 0.25, "tumor": 0.75},
        stop_reason="done",
        mpps=(4.0, 1.0),
        regions=regions,
        cost=CostMeter().close(),
    )


def sharp(name: str, order: int | None, score: float, kind: str = "attention") -> Region:
    return replace(region(name, order), step=1, score=score, score_kind=kind)


def test_the_sharp_regions_of_the_highest_scores_counted_most():
    low = region("low", 0)  # of score 1
    regions = (low, sharp("a", 1, 0.2), sharp("b", 2, 0.5), sharp("unseen", None, 0.9))
    assert [each.id for each in record_of(*regions).top_regions(1)] == ["b"]
    assert [each.id for each in record_of(*regions).top_regions(9)] == ["b", "a"]


def test_of_a_running_answer_what_raised_it_counted_most():
    # From even chances, 0.5: down 0.1, up 0.4, down 0.05.
    leaves = (sharp(str(at), at, score, "running") for at, score in enumerate((0.4, 0.8, 0.75)))
    assert [each.id for each in record_of(*leaves).top_regions(2)] == ["1", "2"]
