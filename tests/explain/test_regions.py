import pytest

from parfocal.explain.record_parts import Region
from parfocal.explain.regions import with_running_probabilities

BOX = {"x": 0.0, "y": 0.0, "width": 1.0, "height": 1.0}


def region(name: str, order: int | None) -> Region:
    kind = {"score": 1.0, "score_kind": "sampling_probability"}
    other = {"parent": None, "selected": False}
    return Region(id=name, step=0, order=order, mpp=1.0, **BOX, **kind, **other)


def test_running_probabilities_belong_to_the_last_visited_regions():
    regions = [region("a", 0), region("b", 2), region("c", None), region("d", 1)]
    merged = list(with_running_probabilities(regions, [{"tumor": 0.4}, {"tumor": 0.7}]))
    assert [each.id for each in merged] == ["a", "b", "c", "d"]
    assert [each.probabilities for each in merged] == [None, {"tumor": 0.7}, None, {"tumor": 0.4}]


@pytest.mark.parametrize("order", [0, None])
def test_regions_of_a_model_that_predicts_once_are_unchanged(order):
    assert list(with_running_probabilities([region("a", order)], [])) == [region("a", order)]
