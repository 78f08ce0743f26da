import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from parfocal.explain.report.charts import COLORS, Axis, Line, line_chart

EPOCHS = Axis("epoch", high=None, integer=True)


def curves(chart: str) -> list[list[tuple[float, float]]]:
    """Return the points of each colored line of a chart, in the pixels of its SVG."""
    paths = re.findall(r'<path d="([^"]*)" style="fill: none; ([^"]*)"', chart)
    colored = [path for path, style in paths if any(color in style for color in COLORS[:9])]
    numbers = [[float(each) for each in re.findall(r"-?[\d.]+", path)] for path in colored]
    return [list(zip(each[::2], each[1::2], strict=True)) for each in numbers]


def styles(chart: str) -> list[str]:
    """Return the style of each colored line of a chart, those of the legend included."""
    found = re.findall(r'<path d="[^"]*" style="(fill: none; [^"]*)"', chart)
    return [style for style in found if any(color in style for color in COLORS)]


def texts(chart: str) -> list[str]:
    root = ElementTree.fromstring(chart)
    return [element.text or "" for element in root.iter("text")]


def test_a_curve_runs_from_corner_to_corner_of_the_axes():
    corners = Line("corners", (0.0, 1.0), (0.0, 1.0))
    middle = Line("middle", (0.0, 0.5), (0.0, 0.5))
    whole, half, *_ = curves(line_chart([corners, middle], Axis("x"), Axis("y")))
    assert whole[0] == half[0]
    assert half[1] == pytest.approx(((whole[0][0] + whole[1][0]) / 2, sum(y for _, y in whole) / 2))


def test_names_stay_text_whatever_they_contain():
    names = ["<b>&", "_hidden", "$x_1$", "日本"]
    lines = [Line(name, (0.0, 1.0), (0.0, 1.0)) for name in names]
    chart = line_chart(lines, Axis("x<"), Axis("y"))
    assert "<b>" not in chart
    assert {"<b>&", "\u200b_hidden", "$x_1$", "日本", "x<", "y"} <= set(texts(chart))
    assert "x&lt;: &lt;b&gt;&amp;" in chart  # the label for screen readers


def test_points_are_markers_if_they_are_not_joined():
    line = Line("a", (0.1, 0.5, 0.9), (0.2, 0.4, 0.6))
    points = line_chart([line], Axis("x"), Axis("y"), joined=False)
    assert points.count("<use ") == 3 + 1  # and one in the legend
    assert curves(points) == []
    assert "<use " not in line_chart([line], Axis("x"), Axis("y"))


def test_a_single_point_is_a_marker():
    assert "<use " in line_chart([Line("a", (1.0,), (0.5,))], EPOCHS, Axis("y"))


@pytest.mark.parametrize("last", [2, 7, 30, 100])
def test_epochs_have_ticks_at_whole_numbers(last):
    chart = line_chart([Line("a", (1.0, last), (0.0, 1.0))], EPOCHS, Axis("y"))
    ticks = texts(chart)[: texts(chart).index("epoch")]
    assert 2 <= len(ticks) <= 7
    assert all(tick.isdecimal() for tick in ticks)


def test_no_two_lines_look_alike_even_without_color():
    lines = [Line(str(number), (0.0, 1.0), (0.0, number / 12)) for number in range(12)]
    drawn = styles(line_chart(lines, Axis("x"), Axis("y")))[:12]
    assert len(set(drawn)) == 12
    assert len({re.sub(r"stroke: #\w+", "", style) for style in drawn[:6]}) == 6


def test_a_chart_loads_nothing_and_is_the_same_each_time():
    lines = [Line("a", (0.0, 1.0), (0.0, 1.0)), Line("b", (0.5,), (0.5,))]
    chart = line_chart(lines, Axis("x"), Axis("y"), diagonal=True)
    assert chart == line_chart(lines, Axis("x"), Axis("y"), diagonal=True)
    assert "http" not in chart
    assert "url(" not in chart
    assert "<style" not in chart
    assert len(chart) < 10_000


def test_predict_does_not_import_matplotlib():
    code = "import sys, parfocal.predict.folder; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
