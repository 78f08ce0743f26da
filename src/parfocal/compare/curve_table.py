"""The curve of accuracy against share as tables: curve.csv, and Markdown for results.md."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from parfocal.compare.curve import Curve, CurvePoint
from parfocal.metrics import interval_notes, score_label

KINDS = {
    "wanted": "most wanted",
    "random": "at random",
    "own": "as trained",
    "exhaustive": "exhaustive",
}
HEADER = (
    *("model", "visited", "requested_share", "attained", "share", "patches", "macs", "seconds"),
    *("slides", "not_met"),
)


def curve_csv(curve: Curve) -> str:
    """Return the text of curve.csv: one row per model, kind and budget, numbers unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metric = curve.metric
    writer.writerow([*HEADER, metric, f"{metric}_sd", f"{metric}_low", f"{metric}_high"])
    for point in curve.points:
        score = point.score
        values = (None,) * 4 if score is None else (score.value, score.sd, score.low, score.high)
        cells = [
            *(point.model, point.kind, point.requested, str(point.attained).lower(), point.share),
            *(point.patches, point.macs, point.seconds, point.slides, point.not_met),
            *values,
        ]
        writer.writerow(["" if _is_missing(cell) else cell for cell in cells])
    return text.getvalue()


def curve_rows(curve: Curve) -> list[list[str]]:
    """Return the rows of the table for people, the header first."""
    header = ["model", "patches visited", "budget", "share", "patches", "TMACs", "s"]
    rows = [[*header, score_label(curve.metric)]]
    return rows + [_row(point) for point in curve.points]


def curve_markdown(curve: Curve) -> str:
    """Return the table of results.md, which is also printed, with the areas and an explanation."""
    rows = curve_rows(curve)
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join((table, *curve_notes(curve))) + "\n"


def curve_notes(curve: Curve) -> list[str]:
    """Return the areas under the curves, and a paragraph that explains the numbers."""
    notes = []
    if curve.span is not None:
        areas = "; ".join(
            f"{model} {KINDS[kind]} {area:.3f}" for (model, kind), area in curve.areas.items()
        )
        low, high = (f"{100 * share:.3g}%" for share in curve.span)
        notes.append(
            f"Area under the curve (mean {score_label(curve.metric)} over the logarithm of the "
            f"share, from {low} to {high}): {areas}."
        )
    notes.append(
        "Share: patches visited at all magnifications, divided by those that exhaustive processing "
        "encodes; the mean of the slides. A budget is unattainable if the visits exceed it on "
        "average, because the lowest magnification is always visited. At random: as many patches "
        "as the same budget allows, chosen at random at each zoom."
    )
    scores = [
        (f"{point.model} {KINDS[point.kind]}{_at(point)}", point.score.score)
        for point in curve.points
        if point.score is not None
    ]
    return [*notes, *([" ".join(found)] if (found := interval_notes(scores)) else [])]


def _at(point: CurvePoint) -> str:
    return "" if point.requested is None else f" at {100 * point.requested:g}%"


def _row(point: CurvePoint) -> list[str]:
    budget = "" if point.requested is None else f"{100 * point.requested:g}%"
    score = "unattainable" if point.score is None else point.score.short
    unmet = f" ({point.not_met} of {point.slides} slides above)" if point.not_met else ""
    return [
        point.model,
        KINDS[point.kind],
        budget + unmet,
        f"{100 * point.share:.3g}%",
        f"{point.patches:,.0f}",
        "unknown" if point.macs is None else f"{point.macs / 1e12:.3g}",
        "" if point.seconds is None else f"{point.seconds:.2f}",
        score,
    ]


def _is_missing(cell: object) -> bool:
    return cell is None or (isinstance(cell, float) and bool(np.isnan(cell)))


def models_of(points: Sequence[CurvePoint]) -> list[str]:
    """Return the names of the models, in order."""
    return list(dict.fromkeys(point.model for point in points))
