import pytest

from parfocal.explain.record import Region, told_between

PLACE = {"x": 0.0, "y": 0.0, "width": 1.0, "height": 1.0, "mpp": 1.0, "score": 1.0}


def region(name: str, order: int | None) -> Region:
    of = {"score_kind": "probability", "parent": None, "selected": False}
    return Region(id=name, step=0, order=order, **PLACE, **of)


def test_running_answers_are_those_of_the_last_places_looked_at():
    regions = [region("a", 0), region("b", 2), region("c", None), region("d", 1)]
    told = list(told_between(regions, [{"tumor": 0.4}, {"tumor": 0.7}]))
    assert [each.id for each in told] == ["a", "b", "c", "d"]
    assert [each.probabilities for each in told] == [None, {"tumor": 0.7}, None, {"tumor": 0.4}]


@pytest.mark.parametrize("order", [0, None])
def test_regions_of_a_model_that_answers_once_stay_as_they_are(order):
    assert list(told_between([region("a", order)], [])) == [region("a", order)]
