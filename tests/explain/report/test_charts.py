import re
from xml.etree import ElementTree

import pytest

from parfocal.explain.report.charts import Axis, Line, line_chart


def test_a_curve_runs_from_corner_to_corner():
    chart = line_chart([Line("a", (0.0, 1.0), (0.0, 1.0))], Axis("x"), Axis("y"))
    (points,) = re.findall(r'points="([^"]*)"', chart)
    assert points == "44,200 306,8"


def test_names_are_text_whatever_they_hold():
    chart = line_chart([Line("<b>&", (0.0,), (1.0,)), Line("c", (), ())], Axis("x<"), Axis("y"))
    assert "<b>" not in chart
    assert "&lt;b&gt;&amp;" in chart
    ElementTree.fromstring(chart)


def test_points_are_not_joined_unless_asked():
    line = Line("a", (0.1, 0.5, 0.9), (0.2, 0.4, 0.6))
    points = line_chart([line], Axis("x"), Axis("y"), joined=False)
    assert points.count('r="4" fill="#0072b2"><title>') == 3
    assert "<circle" not in line_chart([line], Axis("x"), Axis("y"))


@pytest.mark.parametrize(
    ("most", "high"),
    [(0.93, 1.0), (1.02, 1.2), (40, 40.0), (41, 50.0), (104, 120.0), (100 + 1e-8, 100.0), (0, 1.0)],
)
def test_an_axis_ends_with_a_round_number(most, high):
    assert Axis.over("x", [0.0, most]).high == pytest.approx(high)


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (7, [0, 2, 4, 6, 8]),
        (30, [0, 5, 10, 15, 20, 25, 30]),
        (100, [0, 20, 40, 60, 80, 100]),
    ],
)
def test_counts_have_ticks_at_whole_numbers_and_none_far_beyond_them(most, ticks):
    assert Axis.over("epoch", [most], whole=True).ticks == ticks


def test_the_key_shows_points_as_points_and_curves_as_curves():
    lines = [Line("a", (0.1, 0.5), (0.2, 0.4))]
    for joined, sample in ((True, "line"), (False, "circle")):
        _, key = line_chart(lines, Axis("x"), Axis("y"), joined=joined).split("<figcaption>")
        assert re.findall("<(line|circle)", key) == [sample]


def test_no_two_lines_look_alike():
    lines = [Line(str(number), (0.0, 1.0), (0.0, 1.0)) for number in range(12)]
    chart = line_chart(lines, Axis("x"), Axis("y"))
    drawn = re.findall(r'<polyline class="curve"[^>]*(stroke="[^>]*")', chart)
    assert len(set(drawn)) == len(drawn) == 12
