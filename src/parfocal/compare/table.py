"""What a comparison came to: scores with intervals, cost, and the difference from the best.

Of several runs (seeds, folds) a score is the mean over them. Patients are drawn with replacement,
the same for all models, so that differences are of pairs.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import stdev

import numpy as np
from jaxtyping import Float

from parfocal.metrics import BLOCK, Answers, weighted_scores

COMPARED_METRICS = ("weighted_f1", "accuracy", "auroc_macro")
STAGES = ("total", "read", "encode", "model")

Timing = Mapping[str, Mapping[str, float]]  # device -> stage -> seconds


@dataclass(frozen=True)
class Result:
    """What a model did in all its runs.

    Args:
        name: of the model.
        runs: its answers on the test slides, one a run.
        macs: on average over the test slides, encoding included.
        patches: encoded, likewise.
        seconds: a slide takes when it is read from its file, by device and stage.
        failed: test slides without an answer.
        reason: why there is no result; None where there is one.
    """

    name: str
    runs: tuple[Answers, ...] = ()
    macs: float = 0.0
    patches: float = 0.0
    seconds: Timing = field(default_factory=dict)
    failed: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Measure:
    """A score, its standard deviation over runs, and its 95% interval over patients."""

    value: float
    sd: float | None
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """A model's line in the table.

    Args:
        result: of the model.
        measures: by metric; none where it failed.
        behind: what the best has more of the metric asked for, with its 95% interval over the same
            patients; None of the best itself.
    """

    result: Result
    measures: Mapping[str, Measure] = field(default_factory=dict)
    behind: Measure | None = None


def rows_of(
    results: Sequence[Result], metric: str, *, resamples: int = 2000, seed: int = 0
) -> list[Row]:
    """Score all models on the same draws of patients, and compare them with the best."""
    done = [result for result in results if result.reason is None]
    if not done:
        return [Row(result) for result in results]
    patients = sorted({who for result in done for run in result.runs for who in run.groups})
    even = np.full(len(patients), 1 / len(patients))
    draws = np.random.default_rng(seed).multinomial(len(patients), even, resamples).astype(float)
    weights = np.concatenate([np.ones((1, len(patients))), draws])  # first the slides as they are
    scored = {result.name: _scores(result.runs, patients, weights) for result in done}
    best = max(scored, key=lambda name: float(_means(scored[name][metric])[0]))
    rows = []
    for result in results:
        if result.reason is not None:
            rows.append(Row(result))
            continue
        found = scored[result.name]
        measures = {name: _measure(values) for name, values in found.items()}
        gap = _means(scored[best][metric]) - _means(found[metric])
        behind = None if result.name == best else _measure(gap[:, None])
        rows.append(Row(result, measures, behind))
    return rows


def _scores(
    runs: Sequence[Answers], patients: Sequence[str], weights: Float[np.ndarray, "r p"]
) -> dict[str, Float[np.ndarray, "r runs"]]:
    """Give each metric for each row of weights and each run."""
    found: dict[str, list[Float[np.ndarray, " r"]]] = {name: [] for name in COMPARED_METRICS}
    for run in runs:
        drawn = weights[:, np.searchsorted(patients, run.groups)]
        none = drawn.sum(axis=1) == 0  # of this run, in such a draw
        drawn[none] = 1
        step = max(1, BLOCK // run.probabilities.size)
        parts = [weighted_scores(run, drawn[at : at + step]) for at in range(0, len(drawn), step)]
        for name in COMPARED_METRICS:
            values = np.concatenate([part[name] for part in parts])
            found[name].append(np.where(none, np.nan, values))
    return {name: np.stack(values, axis=1) for name, values in found.items()}


def _means(values: Float[np.ndarray, "r runs"]) -> Float[np.ndarray, " r"]:
    """Give the mean over the runs in which a score is defined."""
    defined = ~np.isnan(values)
    means: Float[np.ndarray, " r"] = np.full(len(values), np.nan)
    summed, counts = np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1)
    np.divide(summed, counts, out=means, where=counts > 0)
    return means


def _measure(values: Float[np.ndarray, "r runs"]) -> Measure:
    means = _means(values)
    drawn = means[1:][~np.isnan(means[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    runs = values[0][~np.isnan(values[0])]
    spread = stdev(runs.tolist()) if len(runs) > 1 else None
    return Measure(float(means[0]), spread, float(low), float(high))


def to_csv(rows: Sequence[Row], metric: str) -> str:
    """Give results.csv: a row a model, numbers in full."""
    devices = sorted({device for row in rows for device in row.result.seconds})
    header = ["model", "runs", "slides", "failed_slides"]
    for name in COMPARED_METRICS:
        header += [name, f"{name}_sd", f"{name}_low", f"{name}_high"]
    header += [f"behind_{metric}", "behind_low", "behind_high", "patches", "macs", "flops"]
    header += [f"seconds_{stage}_{device}" for device in devices for stage in STAGES]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*header, "reason"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_cells(row, metric) for row in rows)
    return text.getvalue()


def _cells(row: Row, metric: str) -> dict[str, object]:
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
    for name, measure in row.measures.items():
        told = (measure.value, measure.sd, measure.low, measure.high)
        cells |= zip((name, f"{name}_sd", f"{name}_low", f"{name}_high"), told, strict=True)
    if row.behind is not None:
        cells[f"behind_{metric}"] = row.behind.value
        cells |= {"behind_low": row.behind.low, "behind_high": row.behind.high}
    for device, stages in result.seconds.items():
        cells |= {f"seconds_{stage}_{device}": stages[stage] for stage in STAGES}
    return cells


def to_markdown(rows: Sequence[Row], metric: str) -> str:
    """Give results.md: the table of the ZoomMIL paper, and what it does not say."""
    devices = sorted({device for row in rows for device in row.result.seconds})
    header = ["model", "weighted F1, %", "accuracy, %", "macro AUROC", f"behind the best ({metric})"]
    header += ["TMACs", "TFLOPs", "patches"]
    header += [f"s, {device}: total (read / encode / aggregate)" for device in devices]
    lines = [header, ["---"] * len(header)]
    lines += [_told(row, devices) for row in rows if row.result.reason is None]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    failed = [f"- {r.result.name} failed: {r.result.reason}" for r in rows if r.result.reason]
    failed += [
        f"- {row.result.name}: {row.result.failed} test slides without an answer"
        for row in rows
        if row.result.failed
    ]
    return "\n\n".join(part for part in (table, "\n".join(failed), notes_of(rows)) if part) + "\n"


def _told(row: Row, devices: Sequence[str]) -> list[str]:
    result = row.result
    line = [result.name]
    for name in ("weighted_f1", "accuracy"):
        measure = row.measures[name]
        spread = "" if measure.sd is None else f" ± {100 * measure.sd:.1f}"
        line.append(f"{100 * measure.value:.1f}{spread}")
    line.append(between(row.measures["auroc_macro"]))
    line.append("best" if row.behind is None else between(row.behind))
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


def between(measure: Measure) -> str:
    """Give a score with its interval."""
    if np.isnan(measure.value):
        return "not defined"
    return f"{measure.value:.3f} ({measure.low:.3f} to {measure.high:.3f})"


def notes_of(rows: Sequence[Row]) -> str:
    """Say what the numbers are."""
    runs = max((len(row.result.runs) for row in rows), default=0)
    return (
        f"Means over the runs (seeds and folds, {runs} of a model) ± their standard deviation; in "
        "brackets 95% intervals over patients, drawn alike for all models. Behind the best is the "
        "best model's score less this one's. MACs and patches are "
        "means over the test slides, encoding included; 1 MAC = 2 FLOPs. Seconds are of a few test "
        "slides read from their files, as stored features cost nothing; reading overlaps encoding, "
        "so the parts may add up to more than the total."
    )
