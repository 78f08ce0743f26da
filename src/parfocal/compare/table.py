"""The result tables of a comparison: results.csv and results.md."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from parfocal.compare.scores import COMPARED_METRICS, STAGES, ComparisonRow, ScoreSummary
from parfocal.metrics import METRICS


def to_csv(rows: Sequence[ComparisonRow], metric: str) -> str:
    """Return results.csv: one row per model, numbers unrounded."""
    devices = sorted({device for row in rows for device in row.result.seconds})
    header = ["model", "runs", "slides", "failed_slides"]
    for name in COMPARED_METRICS:
        header += [name, f"{name}_sd", f"{name}_low", f"{name}_high"]
    header += [f"gap_to_best_{metric}", "gap_to_best_low", "gap_to_best_high"]
    header += ["patches", "macs", "flops"]
    header += [f"seconds_{stage}_{device}" for device in devices for stage in STAGES]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*header, "reason"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(row, metric) for row in rows)
    return text.getvalue()


def _csv_row(row: ComparisonRow, metric: str) -> dict[str, object]:
    result = row.result
    if result.reason is not None:
        return {"model": result.name, "reason": result.reason}
    cells: dict[str, object] = {
        "model": result.name,
        "runs": len(result.runs),
        "slides": sum(len(run.truth) for run in result.runs),
        "failed_slides": result.failed,
        "patches": result.patches,
        "macs": result.macs,
        "flops": 2 * result.macs,
    }
    for name, score in row.scores.items():
        values = (score.value, score.sd, score.low, score.high)
        cells |= zip((name, f"{name}_sd", f"{name}_low", f"{name}_high"), values, strict=True)
    if row.gap_to_best is not None:
        cells[f"gap_to_best_{metric}"] = row.gap_to_best.value
        cells["gap_to_best_low"] = row.gap_to_best.low
        cells["gap_to_best_high"] = row.gap_to_best.high
    for device, stages in result.seconds.items():
        cells |= {f"seconds_{stage}_{device}": stages[stage] for stage in STAGES}
    return cells


def to_markdown(rows: Sequence[ComparisonRow], metric: str) -> str:
    """Return results.md: the table, then failures and an explanation of the columns."""
    devices = sorted({device for row in rows for device in row.result.seconds})
    header = ["model", "weighted F1, %", "accuracy, %", METRICS["auroc_macro"]]
    header += [f"gap to best ({METRICS[metric]})", "TMACs", "TFLOPs", "patches"]
    header += [f"s, {device}: total (read / encode / aggregate)" for device in devices]
    lines = [header, ["---"] * len(header)]
    lines += [_markdown_row(row, devices) for row in rows if row.result.reason is None]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    failed = [f"- {r.result.name} failed: {r.result.reason}" for r in rows if r.result.reason]
    failed += [
        f"- {row.result.name}: {row.result.failed} test slides without a prediction"
        for row in rows
        if row.result.failed
    ]
    parts = (table, "\n".join(failed), column_notes(rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_row(row: ComparisonRow, devices: Sequence[str]) -> list[str]:
    result = row.result
    line = [result.name]
    for name in ("weighted_f1", "accuracy"):
        score = row.scores[name]
        sd = "" if score.sd is None else f" ± {100 * score.sd:.1f}"
        line.append(f"{100 * score.value:.1f}{sd}")
    line.append(with_interval(row.scores["auroc_macro"]))
    line.append("best" if row.gap_to_best is None else with_interval(row.gap_to_best))
    line += [f"{result.macs / 1e12:.3g}", f"{2 * result.macs / 1e12:.3g}", f"{result.patches:,.0f}"]
    for device in devices:
        stages = result.seconds.get(device)
        line.append(
            ""
            if stages is None
            else f"{stages['total']:.2f} "
            f"({stages['read']:.2f} / {stages['encode']:.2f} / {stages['model']:.2f})"
        )
    return line


def with_interval(score: ScoreSummary) -> str:
    """Format a score with its interval."""
    if np.isnan(score.value):
        return "not defined"
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def column_notes(rows: Sequence[ComparisonRow]) -> str:
    """Return a paragraph that explains the numbers of the table."""
    runs = max((len(row.result.runs) for row in rows), default=0)
    return (
        f"Scores are means over runs (seeds and folds, {runs} per model) ± their standard "
        "deviation, with 95% bootstrap intervals over patients in brackets; all models share the "
        "resamples. Gap to best: score of the best model minus score of this model. MACs and "
        "patches are means over the test slides and include encoding; 1 MAC = 2 FLOPs. Seconds "
        "are measured on a few test slides read from their files, because reading stored features "
        "takes no time. Reading and encoding overlap, so the stages can sum to more than the total."
    )
