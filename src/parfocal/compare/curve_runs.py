"""Evaluate the models of a comparison at several budgets; what was evaluated before is kept.

OUT/MODEL/seed-0/evaluation-share-5          metrics at 5% of the patches, most wanted first
OUT/MODEL/seed-0/evaluation-share-5-random   the same with patches at random
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from parfocal.compare.candidate import Candidate
from parfocal.compare.curve import (
    BudgetRuns,
    Curve,
    Kind,
    build_curve,
    curve_json,
    kind_without_zoom,
)
from parfocal.compare.curve_table import curve_csv
from parfocal.compare.measure import (
    SharedSetup,
    budget_folder,
    load_or_measure_seconds,
    mean_macs,
)
from parfocal.compare.read_predictions import read_all_predictions
from parfocal.evaluate.run import evaluate
from parfocal.explain.read_metrics import read_metrics
from parfocal.files import write_whole
from parfocal.models.budget import Budget
from parfocal.progress import Progress

logger = logging.getLogger(__name__)

RANDOM_SEED = 0
# In which order patches are visited, and the seed of a random one.
KINDS: tuple[tuple[Kind, int | None], ...] = (("wanted", None), ("random", RANDOM_SEED))


def measure_curve(
    shared: SharedSetup,
    candidates: Sequence[Candidate],
    names: Sequence[str],
    shares: Sequence[float],
    metric: str,
    *,
    resamples: int,
) -> Curve:
    """Evaluate zooming models at each share, and write curve.csv, curve.json and curve.svg.

    Args:
        shared: the comparison, whose models are trained.
        candidates: the models that zoom.
        names: names of the other models that did not fail.
        shares: shares of the patches, ascending.
        metric: the metric of the curve.
        resamples: number of resamples for the intervals.
    """
    from parfocal.compare.curve_picture import draw_curve  # noqa: PLC0415 (matplotlib)

    budgeted: list[BudgetRuns] = []
    own = [_own(shared, each, "own") for each in candidates]
    own += [_without_zoom(shared, each) for each in shared.candidates if each.name in names]
    progress = Progress("curve", len(candidates) * len(shares), unit="budgets")
    for candidate in candidates:
        for share in shares:
            for kind, seed in KINDS:
                budget = Budget("share", share, seed)
                budgeted.append(_with_budget(shared, candidate, kind, budget))
            progress.advance(f"{candidate.name} at {100 * share:g}%")
    curve = build_curve(budgeted, own, metric, resamples=resamples)
    write_whole(shared.out / "curve.csv", curve_csv(curve).encode())
    write_whole(shared.out / "curve.json", curve_json(curve).encode())
    write_whole(shared.out / "curve.svg", draw_curve(curve))
    return curve


def run_folders(shared: SharedSetup, candidate: Candidate) -> list[Path]:
    """Return the folders of all trained runs of a model."""
    found = []
    for seed in range(shared.seeds):
        folder = shared.out / candidate.name / f"seed-{seed}"
        folds = candidate.settings.train.folds
        found += [folder / f"fold-{k}" for k in range(folds)] if folds else [folder]
    return found


def _own(shared: SharedSetup, candidate: Candidate, kind: Kind) -> BudgetRuns:
    """Return the evaluations without a budget, which the comparison has made."""
    folders = [run / "evaluation" for run in run_folders(shared, candidate)]
    return _runs(shared, candidate, kind, folders, None)


def _without_zoom(shared: SharedSetup, candidate: Candidate) -> BudgetRuns:
    """Return the same of a model that does not zoom, which may still leave patches out."""
    runs = _own(shared, candidate, "exhaustive")
    return replace(runs, kind=kind_without_zoom(runs.share))


def _with_budget(
    shared: SharedSetup, candidate: Candidate, kind: Kind, budget: Budget
) -> BudgetRuns:
    """Evaluate all runs of a model with a budget, unless that is done."""
    folders = []
    for run in run_folders(shared, candidate):
        folder = run / f"evaluation-{budget_folder(budget)}"
        if not (folder / "metrics.json").exists():
            evaluate(
                run,
                shared.source,
                folder,
                features=shared.stores.get(candidate.name),
                cache=shared.cache,
                device=shared.device,
                budget=budget,
                trust_remote_code=candidate.trust_remote_code,
                report=False,
                access=shared.access,
            )
        folders.append(folder)
    return _runs(shared, candidate, kind, folders, budget)


def _runs(
    shared: SharedSetup,
    candidate: Candidate,
    kind: Kind,
    folders: Sequence[Path],
    budget: Budget | None,
) -> BudgetRuns:
    metrics = [read_metrics(folder / "metrics.json") for folder in folders]
    timing: Mapping[str, Mapping[str, float]] = {}
    if kind != "random":  # as many patches as in the order of the model
        timing = load_or_measure_seconds(shared, candidate, folders[0].parent, budget)
    return BudgetRuns(
        candidate.name,
        kind,
        None if budget is None else budget.amount,
        metrics,
        read_all_predictions(folders, metrics),
        mean_macs(shared, candidate, metrics),
        timing["cpu"]["total"] if "cpu" in timing else None,
    )
