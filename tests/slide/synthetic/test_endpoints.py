import csv

import numpy as np
import pytest

from parfocal.metrics import SurvivalPredictions, concordance
from parfocal.slide.synthetic.cohort import paint_cohort
from parfocal.slide.synthetic.endpoints import plan_endpoints
from parfocal.slide.synthetic.painting import plan_layout

SMALL = {"seed": 0, "size": 1024, "mpp": 1.0}


@pytest.fixture(scope="module")
def survival():
    return plan_endpoints("survival", slides=100, **SMALL)


def column(planned, name):
    return np.array([float(each.columns[name]) for each in planned])


def test_the_area_is_that_of_the_lesions(survival):
    for each in survival[:10]:
        lesions = plan_layout(each.plan).lesions
        expected = sum(np.pi * (blob.radii[:-1] ** 2).mean() for blob in lesions) / 1e6
        assert each.columns["lesion_mm2"] == pytest.approx(expected, rel=0.02)


def test_the_hazard_follows_the_area(survival):
    area, months, event = (column(survival, n) for n in ("lesion_mm2", "os_months", "os_event"))
    names = tuple(map(str, range(len(area))))
    assert concordance(SurvivalPredictions(area, months, event == 1, names)) > 0.75
    assert 0.3 < event.mean() < 0.9
    assert not event[area == 0].any()


def test_the_grade_is_the_number_of_lesions(survival):
    for each in survival[:20]:
        count = len(plan_layout(each.plan).lesions)
        assert each.columns["grade"] == (0 if count == 0 else 1 if count < 3 else 2)


def test_every_part_has_slides(survival):
    assert {each.split for each in survival} == {"train", "val", "test"}


def test_labels_are_independent_of_each_other():
    planned = plan_endpoints("multilabel", slides=60, **SMALL)
    pairs = {(each.columns["hollow"], each.columns["ringed"]) for each in planned}
    assert pairs == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_lesions_of_two_kinds_are_painted(tmp_path):
    table = paint_cohort(tmp_path / "c", slides=4, endpoint="multilabel", **SMALL | {"seed": 3})
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"hollow", "ringed", "age", "sex"} < rows[0].keys()
    for row in rows:
        assert bool(row["outlines"]) == (row["hollow"] == "1" or row["ringed"] == "1")
        assert (tmp_path / "c" / row["path"]).exists()


def test_tiles_have_no_endpoint(tmp_path):
    with pytest.raises(ValueError, match="has painted texture; omit the tiles"):
        paint_cohort(tmp_path / "c", slides=4, seed=0, endpoint="survival", tiles=tmp_path)
