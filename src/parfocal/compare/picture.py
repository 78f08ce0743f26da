"""A picture of a comparison: accuracy against cost, with intervals and the Pareto front.

Matplotlib is imported here alone.
"""

from collections.abc import Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from parfocal.compare.table import Row

MARKERS = "osD^vP*X<>"  # with the colours, told apart also where costs are alike
Point = tuple[str, float, float, float, float]  # name, cost, value, low, high


def draw(rows: Sequence[Row], metric: str) -> bytes:
    """Draw models by cost (MACs; seconds where they were timed) and metric, as a PNG."""
    done = [row for row in rows if row.result.reason is None]
    panels = {"TMACs a slide": [_point(row, row.result.macs / 1e12, metric) for row in done]}
    for device in sorted({device for row in done for device in row.result.seconds}):
        panels[f"seconds a slide, {device}"] = [
            _point(row, row.result.seconds[device]["total"], metric)
            for row in done
            if device in row.result.seconds
        ]
    figure = Figure(figsize=(5 * len(panels) + 2, 4.5), dpi=120, layout="constrained")
    plots = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (label, points) in zip(plots, panels.items(), strict=True):
        _panel(axes, points)
        axes.set_xlabel(label)
    plots[0].set_ylabel(metric)
    figure.legend(*plots[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def front(points: Sequence[Point]) -> list[Point]:
    """Give those that nothing cheaper or as cheap beats, cheapest first."""
    best, kept = float("-inf"), []
    for point in sorted(points, key=lambda point: (point[1], -point[2])):
        if point[2] > best:
            best = point[2]
            kept.append(point)
    return kept


def _point(row: Row, cost: float, metric: str) -> Point:
    measure = row.measures[metric]
    return row.result.name, cost, measure.value, measure.low, measure.high


def _panel(axes: Axes, points: Sequence[Point]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    for number, (name, cost, value, low, high) in enumerate(points):
        color, marker = f"C{number % 10}", MARKERS[number % len(MARKERS)]
        axes.plot([cost, cost], [low, high], color=color, alpha=0.4, zorder=1)
        axes.scatter([cost], [value], color=color, marker=marker, zorder=2, label=name)
    edge = front(points)
    axes.plot([p[1] for p in edge], [p[2] for p in edge], "k--", linewidth=1, label="Pareto front")
    axes.grid(visible=True, color="0.92")
