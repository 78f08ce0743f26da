"""The picture of accuracy against share, as SVG. matplotlib takes a second to import."""

from collections.abc import Callable
from io import BytesIO

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from parfocal.compare.curve import Curve, CurvePoint, Kind
from parfocal.compare.curve_table import models_of
from parfocal.compare.picture import COLORS, INK, MARKERS, PALE
from parfocal.metrics import score_label

CostOf = Callable[[CurvePoint], float | None]
SALT = "parfocal"  # ids in the file do not change from call to call


def draw_curve(curve: Curve) -> bytes:
    """Draw the score against the share of patches, MACs and seconds, as an SVG.

    Solid lines are zooming models at several budgets, dashed lines the same models with patches at
    random, stars what they visit by themselves, and horizontal lines exhaustive models. A cross at
    the bottom is a share that is unattainable.
    """
    panels: dict[str, CostOf] = {"share of the patches visited, %": lambda point: 100 * point.share}
    if any(point.macs for point in curve.points):
        panels["multiply-accumulates per slide, × 10¹²"] = lambda point: (
            None if not point.macs else point.macs / 1e12
        )
    if any(point.seconds for point in curve.points):
        panels["seconds per slide"] = lambda point: point.seconds
    figure = Figure(figsize=(4.3 * len(panels) + 2.6, 4.2), layout="constrained")
    plots = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (label, cost) in zip(plots, panels.items(), strict=True):
        for number, model in enumerate(models_of(curve.points)):
            style = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
            _draw_model(axes, curve, model, cost, style)
        axes.set_xlabel(label)
        _set_scale(axes)
    _mark_unattainable(plots[0], curve)
    plots[0].set_ylabel(f"{score_label(curve.metric)}, with 95% intervals")
    handles, names = plots[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", frameon=False, labelcolor=INK)
    svg = BytesIO()
    with mpl.rc_context({"svg.hashsalt": SALT}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()


def _mark_unattainable(axes: Axes, curve: Curve) -> None:
    """Mark the shares that the lowest magnification alone exceeds, each with its model's color."""
    for number, model in enumerate(models_of(curve.points)):
        shares = [
            100 * point.requested
            for point in curve.points
            if (point.model, point.kind) == (model, "wanted")
            and point.requested is not None
            and not point.attained
        ]
        if shares:
            axes.plot(
                *(shares, [0.03] * len(shares), "x"),
                color=COLORS[number % len(COLORS)],
                transform=axes.get_xaxis_transform(),
                label=f"{model}: unattainable",
            )


def _draw_model(axes: Axes, curve: Curve, model: str, cost: CostOf, style: tuple[str, str]) -> None:
    color, marker = style
    lines: tuple[tuple[Kind, str, str], ...] = (
        ("wanted", "-", model),
        ("random", ":", f"{model}, at random"),
    )
    for kind, line, name in lines:
        known = [(cost(each), each) for each in curve.of(model, kind)]
        points = [(x, each) for x, each in known if x is not None]
        if points:
            x, y = [place for place, _ in points], [_value(each) for _, each in points]
            axes.plot(x, y, line, color=color, marker=marker, markersize=5, label=name)
        if kind == "wanted":
            for place, each in points:
                _draw_interval(axes, place, each, color)
    star_name = None if curve.of(model, "wanted") else model  # otherwise its line has it
    for each in curve.of(model, "own"):
        if (at := cost(each)) is not None:
            axes.plot(
                [at], [_value(each)], "*", color=color, markersize=11, zorder=4, label=star_name
            )
    for each in curve.of(model, "exhaustive"):
        axes.axhline(_value(each), color=color, linewidth=1, linestyle=(0, (6, 3)), label=model)
        if (at := cost(each)) is not None:
            axes.plot([at], [_value(each)], marker, color=color, markersize=5)


def _draw_interval(axes: Axes, place: float, point: CurvePoint, color: str) -> None:
    assert point.score is not None
    axes.plot([place] * 2, [point.score.low, point.score.high], color=color, alpha=0.35)


def _value(point: CurvePoint) -> float:
    assert point.score is not None
    return point.score.value


def _set_scale(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
