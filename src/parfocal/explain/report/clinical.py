"""Charts of an evaluation that clinics ask for: net benefit, survival by risk, lesions found."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from parfocal.explain.report.charts import Axis, Line, line_chart

MAX_FALSE_POSITIVES = 8.0  # per slide, the last of CAMELYON16's


def clinical_charts(metrics: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Draw what an evaluation has of these, each with its title.

    Args:
        metrics: content of metrics.json; those of earlier versions have none.
    """
    charts = []
    if curve := metrics.get("decision_curve"):
        charts.append((f"Net benefit of acting on {curve['label']}", _net_benefit(curve)))
    if (survival := metrics.get("survival")) and survival["groups"]:
        charts.append((_survival_title(survival), _kaplan_meier(survival)))
    if (froc := metrics.get("froc")) and froc["score"] is not None:
        title = f"Lesions found (FROC, score {froc['score']:.3f} of {froc['lesions']} lesions)"
        charts.append((title, _froc(froc)))
    return charts


def _net_benefit(curve: Mapping[str, Any]) -> Markup:
    """Draw the net benefit, as far as it is above 0, which is that of acting on no one."""
    lines = [
        _above_zero(name, curve["thresholds"], curve[key])
        for name, key in (("model", "model"), ("act on everyone", "everyone"))
    ]
    lines.append(Line("act on no one", (0.0, 1.0), (0.0, 0.0)))
    return line_chart(lines, Axis("threshold probability"), Axis("net benefit", high=None))


def _above_zero(name: str, x: Sequence[float], y: Sequence[float]) -> Line:
    points = [(a, b) for a, b in zip(x, y, strict=True) if b >= 0] or [(0.0, 0.0)]
    return Line(name, tuple(a for a, _ in points), tuple(b for _, b in points))


def _survival_title(survival: Mapping[str, Any]) -> str:
    if survival["p"] is None:
        return f"Survival by predicted risk ({survival['reason']})"
    p = "p < 0.001" if survival["p"] < 0.001 else f"p = {survival['p']:.3f}"
    return f"Survival by tertile of the predicted risk (log-rank {p})"


def _kaplan_meier(survival: Mapping[str, Any]) -> Markup:
    """Draw one step curve per group, until its last observed time."""
    lines = []
    for group in survival["groups"]:
        x, y = [0.0], [1.0]
        for time, share in zip(group["times"], group["survival"], strict=True):
            x += [time, time]
            y += [y[-1], share]
        last = max([*group["times"], *group["censored"], 0.0])
        name = f"{group['name']} ({group['events']} of {group['n']} with the event)"
        lines.append(Line(name, (*x, last), (*y, y[-1])))
    return line_chart(lines, Axis("time", high=None), Axis("share without the event"))


def _froc(froc: Mapping[str, Any]) -> Markup:
    pairs = zip(froc["false_positives"], froc["sensitivity"], strict=True)
    points = [pair for pair in pairs if pair[0] <= MAX_FALSE_POSITIVES]
    points.append((MAX_FALSE_POSITIVES, points[-1][1]))
    line = Line("lesions", tuple(x for x, _ in points), tuple(y for _, y in points))
    across = Axis("false positives per slide", high=MAX_FALSE_POSITIVES)
    return line_chart([line], across, Axis("share of lesions found"))
