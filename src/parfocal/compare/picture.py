"""The picture of a comparison: accuracy against cost, with intervals and the Pareto front.

matplotlib takes a second to import and is imported in this file only.
"""

import math
from collections.abc import Sequence
from io import BytesIO
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from parfocal.compare.scores import ComparisonRow
from parfocal.metrics import is_error, score_label

# Colors that remain distinct with color blindness; markers distinguish the models in gray print.
COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#332288", "#882255"),
    *("#999933", "#555555", "#117733", "#aa4499", "#88ccee", "#bb9900"),
)
MARKERS = "osD^vP*X<>p"
INK, PALE = "#333333", "#dddddd"
MIN_COST = 1e-3  # share of the highest cost; cheaper models are drawn there, marked "← less"
MARKER_WIDTH = 0.02  # share of a panel; points closer than this would overlap
NOTE = "Models with nearly the same cost are drawn side by side."


class Point(NamedTuple):
    """A model in the picture: its cost, its score, and the interval of the score."""

    name: str
    cost: float
    score: float
    low: float
    high: float


def point_of(row: ComparisonRow, cost: float, metric: str) -> Point:
    """Return the point of a model at the given cost."""
    score = row.scores[metric]
    return Point(row.result.name, cost, score.value, score.low, score.high)


def draw_comparison(rows: Sequence[ComparisonRow], metric: str) -> bytes:
    """Draw score against cost as a PNG: one panel for MACs, one per device for seconds."""
    done = [row for row in rows if row.result.reason is None]
    panels = {
        "multiply-accumulates per slide, × 10¹²": [
            point_of(row, row.result.macs / 1e12, metric)
            for row in done
            if row.result.macs is not None
        ]
    }
    for device in sorted({device for row in done for device in row.result.seconds}):
        panels[f"seconds per slide, {device.upper()}"] = [
            point_of(row, row.result.seconds[device]["total"], metric)
            for row in done
            if device in row.result.seconds
        ]
    figure = Figure(figsize=(4.3 * len(panels) + 2.4, 4.2), dpi=110, layout="constrained")
    plots = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    styles = {row.result.name: _style(number) for number, row in enumerate(done)}
    for axes, (label, points) in zip(plots, panels.items(), strict=True):
        _draw_panel(axes, points, styles, lowest=is_error(metric))
        axes.set_xlabel(label)
    plots[0].set_ylabel(f"{score_label(metric)}, with 95% intervals")
    figure.supxlabel(NOTE, fontsize=8, color=INK, x=0.01, ha="left")
    _draw_legend(figure, plots[0], done, metric)
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def pareto_front(points: Sequence[Point], *, lowest: bool = False) -> list[Point]:
    """Return the points with a better score than all points of the same or lower cost.

    They are sorted by cost, lowest first.

    Args:
        points: the models.
        lowest: whether lower scores are better.
    """
    sign = -1 if lowest else 1
    best, front = float("-inf"), []
    for point in sorted(points, key=lambda point: (point.cost, -sign * point.score)):
        if sign * point.score > best:
            best = sign * point.score
            front.append(point)
    return front


def separate(costs: Sequence[float], factor: float) -> list[float]:
    """Move costs that differ by less than a factor apart by that factor, around their middle."""
    order = sorted(range(len(costs)), key=lambda index: costs[index])
    moved, group = list(costs), order[:1]
    for index, following in zip(order, [*order[1:], None], strict=True):
        if following is not None and costs[following] < factor * costs[index]:
            group.append(following)
            continue
        middle = (costs[group[0]] * costs[group[-1]]) ** 0.5
        for rank, member in enumerate(group):
            moved[member] = middle * factor ** (rank - (len(group) - 1) / 2)
        group = [] if following is None else [following]
    return moved


def _style(number: int) -> tuple[str, str]:
    return COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]


def _draw_panel(
    axes: Axes, points: Sequence[Point], styles: dict[str, tuple[str, str]], *, lowest: bool
) -> None:
    if not points:
        return
    highest = max(point.cost for point in points)
    clipped = [max(point.cost, MIN_COST * highest) for point in points]
    decades = math.log10(highest / min(clipped))
    _set_scale(axes, decades)
    positions = separate(clipped, 10 ** (MARKER_WIDTH * max(decades, 1)))
    for x, point in zip(positions, points, strict=True):
        color, marker = styles[point.name]
        axes.plot([x, x], [point.low, point.high], color=color, alpha=0.45, linewidth=1.6)
        axes.scatter(
            [x], [point.score], s=50, color=color, marker=marker, label=point.name, zorder=3
        )
        if point.cost < MIN_COST * highest:
            axes.annotate(
                "← less", (x, point.score), (-12, 8), textcoords="offset points", color=INK
            )
    front = pareto_front(points, lowest=lowest)
    _draw_front(axes, [(max(p.cost, MIN_COST * highest), p.score) for p in front])


def _set_scale(axes: Axes, decades: float) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1,)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1)
    axes.grid(visible=True, axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_front(axes: Axes, corners: Sequence[tuple[float, float]]) -> None:
    """Draw the Pareto front as a step line, unless no score is defined."""
    if not corners:
        return
    right = axes.get_xlim()[1]
    costs, scores = zip(*corners, (right, corners[-1][1]), strict=True)
    axes.step(
        costs,
        scores,
        where="post",
        color=INK,
        linewidth=1,
        linestyle=(0, (4, 3)),
        label="Pareto front",
    )
    axes.set_xlim(right=right)


def _draw_legend(figure: Figure, axes: Axes, done: Sequence[ComparisonRow], metric: str) -> None:
    """List the models with their scores, best first."""
    scores = {row.result.name: row.scores[metric].value for row in done}
    sign = -1 if is_error(metric) else 1
    handles, names = axes.get_legend_handles_labels()
    entries = sorted(
        zip(handles, names, strict=True),
        key=lambda entry: -sign * scores.get(entry[1], -sign * float("inf")),
    )
    labels = [f"{name}  {scores[name]:.3f}" if name in scores else name for _, name in entries]
    figure.legend(
        [handle for handle, _ in entries],
        labels,
        loc="outside right upper",
        frameon=False,
        labelcolor=INK,
        handlelength=1.6,
        labelspacing=0.6,
    )
