"""The result tables of a comparison: results.csv and results.md."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from parfocal.compare.read_predictions import EVENTS, SLIDES
from parfocal.compare.scores import (
    STAGES,
    ComparisonRow,
    ModelResult,
    ScoreSummary,
    labeled_runs,
    pool_runs,
    score_names,
)
from parfocal.metrics import interval_notes, is_error, score_label, small_classes
from parfocal.printable import counts_of_each

PERCENT = ("weighted_f1", "accuracy")  # printed with their deviation, without an interval
EXACT = ("accuracy",)  # with an exact interval; the others by bootstrap
MIN_SLIDES = 10  # test slides, in survival with an event, below which scores are rough
AUROC_RULE = (
    "AUROC is computed in each run, one class against the others, and averaged over the classes, "
    "then over the runs; predictions of different runs are never ranked together. The ROC curve is "
    "averaged in the same way."
)


def to_csv(rows: Sequence[ComparisonRow], metric: str) -> str:
    """Return results.csv: one row per model, numbers unrounded."""
    devices = sorted({device for row in rows for device in row.result.seconds})
    header = ["model", "encoder", "runs", "slides", "failed_slides"]
    names = score_names(rows)
    for name in names:
        header += [name, f"{name}_sd", f"{name}_low", f"{name}_high"]
    header += [f"gap_to_best_{metric}", "gap_to_best_low", "gap_to_best_high", "auroc_delong_p"]
    bootstrapped = [name for name in names if name not in EXACT]
    header += ["resamples", *(f"undefined_resamples_{name}" for name in bootstrapped)]
    header += [f"n_{label}" for label in _labels(rows)]
    header += ["patches", "macs", "flops"]
    header += [f"seconds_{stage}_{device}" for device in devices for stage in STAGES]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*header, "reason"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(row, metric) for row in rows)
    return text.getvalue()


def _labels(rows: Sequence[ComparisonRow]) -> list[str]:
    return list(dict.fromkeys(label for row in rows for label in row.result.classes))


def _csv_row(row: ComparisonRow, metric: str) -> dict[str, object]:
    result = row.result
    if result.reason is not None:
        return {"model": result.name, "reason": result.reason}
    cells: dict[str, object] = {
        "model": result.name,
        "encoder": result.encoder or "",
        "runs": len(result.runs),
        "slides": sum(len(run.groups) for run in result.runs),
        "failed_slides": result.failed,
        "patches": result.patches,
        "macs": "" if result.macs is None else result.macs,
        "flops": "" if result.macs is None else 2 * result.macs,
    }
    for name, score in row.scores.items():
        values = (score.value, score.sd, score.low, score.high)
        texts = ("" if value is None or np.isnan(value) else value for value in values)
        cells |= zip((name, f"{name}_sd", f"{name}_low", f"{name}_high"), texts, strict=True)
    for name, score in row.scores.items():
        if name not in EXACT:
            cells["resamples"] = score.resamples
            cells[f"undefined_resamples_{name}"] = score.undefined_resamples
    cells |= {f"n_{label}": count for label, count in result.classes.items()}
    if row.gap_to_best is not None:
        cells[f"gap_to_best_{metric}"] = row.gap_to_best.value
        has_interval = not np.isnan(row.gap_to_best.low)
        cells["gap_to_best_low"] = row.gap_to_best.low if has_interval else ""
        cells["gap_to_best_high"] = row.gap_to_best.high if has_interval else ""
        if row.delong is not None and row.delong.p is not None:
            cells["auroc_delong_p"] = row.delong.p
    for device, stages in result.seconds.items():
        cells |= {f"seconds_{stage}_{device}": stages[stage] for stage in STAGES}
    return cells


def to_markdown(rows: Sequence[ComparisonRow], metric: str) -> str:
    """Return results.md: the table, then failures and an explanation of the columns."""
    devices = sorted({device for row in rows for device in row.result.seconds})
    labels = [f"{score_label(n)}{', %' if n in PERCENT else ''}" for n in score_names(rows)]
    header = ["model", "test slides", *labels]
    header += [f"gap to best ({score_label(metric)})", "TMACs", "TFLOPs", "patches"]
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
    parts = (table, "\n".join(failed), *warnings(rows), column_notes(rows, without=PERCENT))
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_row(row: ComparisonRow, devices: Sequence[str]) -> list[str]:
    result = row.result
    line = [result.name, class_text(result)]
    line += [_score_cell(name, score) for name, score in row.scores.items()]
    line.append(row.gap_text)
    tera = None if result.macs is None else result.macs / 1e12
    line += ["unknown"] * 2 if tera is None else [f"{tera:.3g}", f"{2 * tera:.3g}"]
    line.append(f"{result.patches:,.0f}")
    for device in devices:
        stages = result.seconds.get(device)
        line.append(
            ""
            if stages is None
            else f"{stages['total']:.2f} "
            f"({stages['read']:.2f} / {stages['encode']:.2f} / {stages['model']:.2f})"
        )
    return line


def _score_cell(name: str, score: ScoreSummary) -> str:
    if name not in PERCENT:
        return score.short
    sd = "" if score.sd is None else f" ± {100 * score.sd:.1f}"
    return f"{100 * score.value:.1f}{sd}"


def class_text(result: ModelResult) -> str:
    """Return the number of test slides of each class, or of all together."""
    if EVENTS in result.classes or list(result.classes) == [SLIDES]:  # the task has no classes
        return ", ".join(f"{count} {name}" for name, count in result.classes.items())
    return counts_of_each(result.classes)


def warnings(rows: Sequence[ComparisonRow]) -> list[str]:
    """Return what limits the scores: classes with few patients, and few events."""
    found = []
    for row in (each for each in rows if each.result.reason is None):
        labeled = labeled_runs(row.result)
        few = small_classes(pool_runs(labeled)) if labeled else _few_slides(row.result)
        found += [] if few is None else [f"Warning: {few}."]
    return list(dict.fromkeys(found))


def _few_slides(result: ModelResult) -> str | None:
    what = " with an event" if EVENTS in result.classes else ""
    slides = result.classes.get(EVENTS, sum(result.classes.values()))
    if slides >= MIN_SLIDES:
        return None
    return f"fewer than {MIN_SLIDES} test slides{what} ({slides}): scores are rough"


def _intervals_note(rows: Sequence[ComparisonRow]) -> str:
    """Return sentences about the intervals, and about scores of which lower is better."""
    errors = [score_label(name) for name in score_names(rows) if is_error(name)]
    lower = f" Lower is better for {' and '.join(errors)}." if errors else ""
    if not any(labeled_runs(row.result) for row in rows):
        return (
            "The intervals are percentile bootstrap intervals, and all models share the "
            f"resamples.{lower}"
        )
    return (
        f"{AUROC_RULE} The interval of the accuracy is exact (Clopper-Pearson, one trial per "
        "patient); the others are percentile bootstrap intervals, and all models share the "
        f"resamples.{lower}"
    )


def _scores_notes(rows: Sequence[ComparisonRow], without: Sequence[str]) -> str:
    """Return sentences on scores without an interval, and on undefined resamples."""
    named = [
        (f"{score_label(name)} of {row.result.name}", score.score)
        for row in rows
        for name, score in row.scores.items()
        if name not in without
    ]
    gaps = [
        (f"gap of {row.result.name}", row.gap_to_best.score)
        for row in rows
        if row.gap_to_best is not None
    ]
    return "".join(f" {note}" for note in interval_notes([*named, *gaps]))


def _encoders_note(rows: Sequence[ComparisonRow]) -> str:
    """Return a sentence that names the encoders; empty if no model has one."""
    encoders = {r.result.name: r.result.encoder for r in rows if r.result.encoder is not None}
    if len(set(encoders.values())) == 1:
        return f"Encoder: {next(iter(encoders.values()))}. "
    names = "; ".join(f"{name} {encoder}" for name, encoder in encoders.items())
    return f"Encoders: {names}. " if names else ""


def column_notes(rows: Sequence[ComparisonRow], *, without: Sequence[str] = ()) -> str:
    """Return a paragraph that explains the numbers of the table.

    Args:
        rows: the models.
        without: scores that are printed without their intervals.
    """
    runs = max((len(row.result.runs) for row in rows), default=0)
    return (
        f"Scores are means over runs (seeds and folds, {runs} per model) ± their standard "
        f"deviation, with 95% intervals over patients in brackets. {_intervals_note(rows)}"
        f"{_scores_notes(rows, without)} Gap to "
        "best: by how much the best model is better. MACs and patches are means over the test "
        "slides "
        "and include encoding; 1 MAC = 2 FLOPs. Each model gets the same patches as when it is "
        "trained alone. "
        f"{_encoders_note(rows)}"
        "Seconds are measured on a few test slides read from their files, because reading stored "
        "features takes no time. Reading and encoding overlap, so the stages can sum to more than "
        "the total."
    )
