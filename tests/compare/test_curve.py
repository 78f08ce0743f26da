"""Accuracy against share: points, areas, tables and the picture."""

import csv
import io
import json

import numpy as np
import pytest

from parfocal.compare import ComparisonError, load_candidates
from parfocal.compare.curve import (
    BudgetRuns,
    Curve,
    Kind,
    build_curve,
    curve_json,
    kind_without_zoom,
    mean_height,
    parse_shares,
    zooming,
)
from parfocal.compare.curve_picture import draw_curve
from parfocal.compare.curve_table import curve_csv, curve_markdown
from parfocal.metrics import LabeledPredictions

TRUTH = np.array([0, 0, 0, 1, 1, 1])


def runs(
    model: str,
    kind: Kind,
    requested: float | None,
    share: float,
    wrong: int,
    *,
    not_met: int = 0,
) -> BudgetRuns:
    """Return the evaluation of a model that ranks some slides of class 1 below all others."""
    probability = np.array([0.2, 0.3, 0.4, 0.9, 0.8, 0.7])
    probability[3 : 3 + wrong] = 0.1
    metrics = {
        "cost": {
            "share_patches": {"mean": share},
            "patches": [{"mean": 100 * share / 4}, {"mean": 300 * share / 4}],
        },
        "budget": {"not_met": not_met},
    }
    predictions = LabeledPredictions(
        ("normal", "tumor"),
        TRUTH,
        np.stack([1 - probability, probability], axis=1),
        tuple("abcdef"),
    )
    return BudgetRuns(model, kind, requested, [metrics], [predictions], share * 1e12, None)


def curve() -> Curve:
    budgeted = [
        runs("zoom", "wanted", 0.01, 0.04, 3, not_met=6),
        runs("zoom", "wanted", 0.05, 0.05, 1, not_met=1),
        runs("zoom", "wanted", 1.0, 1.0, 0),
        runs("zoom", "random", 0.01, 0.04, 3, not_met=6),
        runs("zoom", "random", 0.05, 0.05, 2, not_met=1),
        runs("zoom", "random", 1.0, 1.0, 0),
    ]
    own = [runs("zoom", "own", None, 0.1, 0), runs("abmil", "exhaustive", None, 1.0, 1)]
    return build_curve(budgeted, own, "auroc_macro", resamples=20)


def test_a_share_that_the_lowest_magnification_exceeds_is_unattainable():
    first, second, *_ = curve().points
    assert not first.attained
    assert first.score is None
    assert first.share == 0.04  # as measured, not as requested
    assert second.attained
    assert second.score is not None
    assert second.score.value == pytest.approx(2 / 3)


def test_the_cost_of_a_curve_grows_with_the_budget():
    for kind in ("wanted", "random"):
        points = curve().of("zoom", kind)  # type: ignore[arg-type]
        assert [each.requested for each in points] == [0.05, 1.0]
        assert [each.share for each in points] == sorted(each.share for each in points)
        assert [each.macs for each in points] == sorted(each.macs or 0 for each in points)


def test_the_area_is_the_mean_height_over_the_logarithm_of_the_share():
    found = curve()
    assert found.span == pytest.approx((0.05, 1.0))
    assert found.areas["zoom", "wanted"] == pytest.approx((2 / 3 + 1) / 2)
    assert found.areas["zoom", "random"] == pytest.approx((1 / 3 + 1) / 2)


def test_a_mean_height_agrees_with_a_fine_sum():
    line = [(0.0, 0.2), (0.5, 0.9), (2.0, 0.4)]
    places = np.linspace(0.1, 1.7, 200_001)
    expected = np.interp(places, *zip(*line, strict=True)).mean()
    assert mean_height(line, 0.1, 1.7) == pytest.approx(expected, abs=1e-5)


def test_the_tables_have_every_point():
    rows = list(csv.DictReader(io.StringIO(curve_csv(curve()))))
    assert len(rows) == 8
    assert (rows[0]["attained"], rows[0]["auroc_macro"], rows[0]["not_met"]) == ("false", "", "6")
    content = json.loads(curve_json(curve()))
    assert [each["attained"] for each in content["points"]].count(False) == 2
    assert {each["kind"] for each in content["areas"]} == {"wanted", "random"}
    text = curve_markdown(curve())
    assert (
        "| zoom | most wanted | 1% (6 of 6 slides above) | 4% | 4 | 0.04 |  | unattainable |"
        in text
    )
    assert "from 5% to 100%" in text


def test_the_picture_is_the_same_each_time_and_names_the_models():
    picture = draw_curve(curve())
    assert picture.startswith(b"<?xml")
    assert picture == draw_curve(curve())


@pytest.mark.parametrize(
    ("share", "kind"),
    [(0.08, "own"), (1.0, "exhaustive"), (1.35, "exhaustive"), (None, "exhaustive")],
)
def test_a_model_that_leaves_patches_out_is_not_called_exhaustive(share: float | None, kind: Kind):
    assert kind_without_zoom(share) == kind


def test_a_model_with_a_point_of_its_own_only_is_named_in_the_picture():
    own = [runs("zoom", "own", None, 0.1, 0), runs("student", "own", None, 0.08, 1)]
    wanted = [runs("zoom", "wanted", 1.0, 1.0, 0)]
    picture = draw_curve(build_curve(wanted, own, "auroc_macro", resamples=20)).decode()
    assert picture.count("<!-- student -->") == 1
    assert picture.count("<!-- zoom -->") == 1


@pytest.mark.parametrize("text", ["0,5", "5,101", "few", "5,,10", "-1"])
def test_an_impossible_share_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a share of the patches in percent"):
        parse_shares(text)


def test_a_share_that_may_be_a_fraction_is_refused():
    with pytest.raises(ValueError, match=r"'0\.05': shares are in percent; write 5 or 0\.05%"):
        parse_shares("0.05,0.1")
    assert parse_shares("0.5%") == (0.005,)


def test_a_share_is_listed_once():
    with pytest.raises(ValueError, match="5 is listed twice; list it once"):
        parse_shares("5,1,5%")


def test_shares_are_ascending_fractions():
    assert parse_shares("100, 5%,1") == (0.01, 0.05, 1.0)


def test_a_comparison_without_a_zooming_model_has_no_curve():
    with pytest.raises(ComparisonError, match="none of the models zooms into patches"):
        zooming(load_candidates(["abmil", "mean"]))
