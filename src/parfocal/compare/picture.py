"""A picture of a comparison: accuracy against cost, with intervals and the Pareto front.

Matplotlib is imported here alone.
"""

import math
from collections.abc import Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from parfocal.compare.table import Row
from parfocal.metrics import METRICS

# Told apart also by those who do not see all colors, and by their marker in print.
COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#332288", "#882255"),
    *("#999933", "#555555", "#117733", "#aa4499", "#88ccee", "#bb9900"),
)
MARKERS = "osD^vP*X<>p"
INK, PALE = "#333333", "#dddddd"
LEAST = 1e-3  # of the dearest: what costs less is drawn there, so that the others stay apart
MARKER_WIDTH = 0.02  # of a panel: costs that are nearer would be drawn over each other
NOTE = "Models of nearly the same cost are drawn side by side."
Point = tuple[str, float, float, float, float]  # name, cost, value, low, high


def draw(rows: Sequence[Row], metric: str) -> bytes:
    """Draw models by cost (MACs; seconds where they were timed) and metric, as a PNG."""
    done = [row for row in rows if row.result.reason is None]
    panels = {
        "multiply-accumulates a slide, × 10¹²": [
            _point(row, row.result.macs / 1e12, metric) for row in done
        ]
    }
    for device in sorted({device for row in done for device in row.result.seconds}):
        panels[f"seconds a slide, {device.upper()}"] = [
            _point(row, row.result.seconds[device]["total"], metric)
            for row in done
            if device in row.result.seconds
        ]
    figure = Figure(figsize=(4.3 * len(panels) + 2.4, 4.2), dpi=110, layout="constrained")
    plots = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    looks = {row.result.name: _look(number) for number, row in enumerate(done)}
    for axes, (label, points) in zip(plots, panels.items(), strict=True):
        _panel(axes, points, looks)
        axes.set_xlabel(label)
    plots[0].set_ylabel(f"{METRICS[metric]}, with 95% intervals")
    figure.supxlabel(NOTE, fontsize=8, color=INK, x=0.01, ha="left")
    _legend(figure, plots[0], done, metric)
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


def apart(costs: Sequence[float], step: float) -> list[float]:
    """Let costs that are less than a factor apart stand that far apart, around their middle."""
    order = sorted(range(len(costs)), key=lambda place: costs[place])
    moved, group = list(costs), order[:1]
    for place, following in zip(order, [*order[1:], None], strict=True):
        if following is not None and costs[following] < step * costs[place]:
            group.append(following)
            continue
        middle = (costs[group[0]] * costs[group[-1]]) ** 0.5
        for rank, member in enumerate(group):
            moved[member] = middle * step ** (rank - (len(group) - 1) / 2)
        group = [] if following is None else [following]
    return moved


def _point(row: Row, cost: float, metric: str) -> Point:
    measure = row.measures[metric]
    return row.result.name, cost, measure.value, measure.low, measure.high


def _look(number: int) -> tuple[str, str]:
    return COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]


def _panel(axes: Axes, points: Sequence[Point], looks: dict[str, tuple[str, str]]) -> None:
    if not points:
        return
    dearest = max(cost for _, cost, *_ in points)
    drawn = [max(cost, LEAST * dearest) for _, cost, *_ in points]
    decades = math.log10(dearest / min(drawn))
    _scale(axes, decades)
    places = apart(drawn, 10 ** (MARKER_WIDTH * max(decades, 1)))
    for place, (name, cost, value, low, high) in zip(places, points, strict=True):
        color, marker = looks[name]
        axes.plot([place, place], [low, high], color=color, alpha=0.45, linewidth=1.6)
        axes.scatter([place], [value], s=50, color=color, marker=marker, label=name, zorder=3)
        if cost < LEAST * dearest:
            axes.annotate("← less", (place, value), (-12, 8), textcoords="offset points", color=INK)
    _edge(axes, [(max(cost, LEAST * dearest), value) for _, cost, value, *_ in front(points)])


def _scale(axes: Axes, decades: float) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1)
    axes.grid(visible=True, axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _edge(axes: Axes, corners: Sequence[tuple[float, float]]) -> None:
    """Draw the Pareto front as stairs: the best that a cost buys; none of undefined scores."""
    if not corners:
        return
    reach = axes.get_xlim()[1]
    costs, values = zip(*corners, (reach, corners[-1][1]), strict=True)
    dashes = (0, (4, 3))
    axes.step(
        *(costs, values),
        where="post",
        color=INK,
        linewidth=1,
        linestyle=dashes,
        label="Pareto front",
    )
    axes.set_xlim(right=reach)


def _legend(figure: Figure, axes: Axes, done: Sequence[Row], metric: str) -> None:
    """Name the models, the best first, with their scores."""
    scores = {row.result.name: row.measures[metric].value for row in done}
    handles, names = axes.get_legend_handles_labels()
    entries = sorted(
        zip(handles, names, strict=True), key=lambda entry: -scores.get(entry[1], float("-inf"))
    )
    told = [f"{name}  {scores[name]:.3f}" if name in scores else name for _, name in entries]
    figure.legend(
        [handle for handle, _ in entries],
        told,
        loc="outside right upper",
        frameon=False,
        labelcolor=INK,
        handlelength=1.6,
        labelspacing=0.6,
    )
