"""Train, evaluate and time several models on the same splits; an interrupted call is resumable.

OUT/features/ENCODER    features, extracted once for all models that they serve
OUT/MODEL/seed-0        run folders (below them fold-0, ... with folds), each with `evaluation`
OUT/MODEL/seconds.json  seconds per slide, read from its file
OUT/results.csv, .md    the tables, rewritten after each model
OUT/results.png, report.html    the picture and the page, written at the end or on interruption
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from parfocal.compare.candidate import Candidate, ComparisonError
from parfocal.compare.curve import Curve, zooming
from parfocal.compare.curve_runs import measure_curve
from parfocal.compare.curve_table import curve_markdown
from parfocal.compare.measure import (
    SharedSetup,
    load_or_measure_seconds,
    mean_macs,
    mean_patches,
)
from parfocal.compare.read_predictions import count_slides, read_all_predictions
from parfocal.compare.readable import find_unreadable
from parfocal.compare.scores import ComparisonRow, ModelResult, score_results
from parfocal.compare.stores import prepare_stores
from parfocal.compare.table import to_csv, to_markdown
from parfocal.compare.teachers import awaits_teacher, refuse_unfit_teachers, teachers_first
from parfocal.compare.trainings import Trainings, describe_error
from parfocal.dataset.cohort import Cohort, without_slides
from parfocal.dataset.leakage import refuse_copies
from parfocal.distribute.claims import hold
from parfocal.distribute.work import Ended
from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution, WorkList
from parfocal.explain.read_metrics import read_metrics
from parfocal.explain.report import optional_report
from parfocal.features.folder import FeatureFolder
from parfocal.features.open_folder import Features, open_features
from parfocal.files import refuse_slide_folder, write_whole
from parfocal.models.covariates import covariate_columns
from parfocal.settings.stored_features import follow_features
from parfocal.slide.errors import group_failures
from parfocal.slide.failure import reraise_interrupt
from parfocal.slide.sources.url import RemoteAccess
from parfocal.tasks import Task, prepared_task, read_task_cohort
from parfocal.train import make_splits
from parfocal.train.checks import describe_unreadable
from parfocal.train.early_checks import refuse_unusable_columns, refuse_unusable_teacher
from parfocal.train.folder import CLAIM_FILE
from parfocal.train.loggers import require_logger

FINISH_WAIT_S = 86_400.0  # for another process that measures the seconds of a model

logger = logging.getLogger(__name__)

MAGNIFICATIONS = "slide.magnifications"  # the setting, as messages about slides name it


def compare(
    cohort_csv: Path,
    candidates: Sequence[Candidate],
    out: Path,
    *,
    seeds: int = 1,
    features: Features | None = None,
    cache: Path | None = None,
    device: str = "auto",
    metric: str | None = None,
    timed: int = 3,
    resamples: int = 2000,
    skip_unreadable: bool = False,
    shares: Sequence[float] = (),
    distribution: Distribution = EVERYTHING_HERE,
    access: RemoteAccess | None = None,
) -> list[ComparisonRow]:
    """Compare models, and write results.csv, results.md, results.png and report.html.

    If a model fails, its row has the reason and the other models are still run. The same call
    resumes an interrupted comparison.

    Args:
        cohort_csv: CSV of the slides.
        candidates: the models; see `load_candidates`.
        out: output folder.
        seeds: number of training runs of each model or fold; the seeds are 0, 1, ...
        features: folder of stored features for all models, by parfocal or by another tool, or
            folders by magnification; None extracts them into `out`.
        cache: folder of features that are not computed again, and of the pixels that models read.
        device: device for training and evaluation.
        metric: metric that ranks the models and is plotted, one of `Task.compared`; None for the
            first of them.
        timed: number of test slides to time from file to prediction.
        resamples: number of resamples for the intervals.
        skip_unreadable: whether to compare without the slides that cannot be read; if False, they
            are refused before the first training.
        shares: budgets for the curve of accuracy against share, as shares of the patches; none for
            no curve. Models that zoom are evaluated at each of them.
        distribution: how the trainings are divided among processes. Several calls with the same
            `out` share them, each model, seed and fold once.
        access: how remote slides are read; None for the defaults.

    Raises:
        CohortError: the cohort is invalid.
        StoreError: features cannot be written, or were made with other settings.
        ComparisonError: a slide cannot be read, there is no test slide, the task has no such
            metric, or a model in `out` was trained with other settings or slides.
        RunError: a logger is not installed.
    """
    for each in candidates:
        require_logger(each.settings.train.logger)
    columns = {
        name: None for c in candidates for name in covariate_columns(c.settings.train.covariates)
    }
    check_comparison(candidates, metric=metric, shares=shares)
    task = _shared_task(candidates)
    metric = _metric_of(task, metric)
    cohort = read_task_cohort(cohort_csv, task, columns=tuple(columns), access=access)
    refuse_slide_folder(out, (slide.path for slide in cohort.slides))
    folder = None if features is None else open_features(features, cohort.slides)
    if folder is not None:
        candidates = [
            replace(each, settings=follow_features(each.settings, folder)) for each in candidates
        ]
    refuse_copies(cohort, folder)
    _require_test_slides(cohort, candidates)
    if not skip_unreadable:  # else the splits may change
        _refuse_unusable(cohort, candidates, out)
    stores = prepare_stores(cohort, candidates, out, features=folder, cache=cache, device=device)
    unreadable = _list_unreadable(
        cohort, find_unreadable(cohort, candidates, stores), folder, skip=skip_unreadable
    )
    _require_test_slides(without_slides(cohort, unreadable), candidates)
    shared = SharedSetup(
        *(cohort_csv, cohort, out, stores.folders, seeds, cache, device, timed, unreadable),
        tuple(candidates),
        access=access,
    )
    return _Comparison(shared, task.compared, metric, resamples, shares).run(distribution)


def check_comparison(
    candidates: Sequence[Candidate], *, metric: str | None = None, shares: Sequence[float] = ()
) -> None:
    """Check that models can be compared with these arguments, before any file is read.

    Args:
        candidates: the models.
        metric: metric that ranks them; None for the first of their task.
        shares: budgets of the curve; empty for no curve.

    Raises:
        ComparisonError: the models have different tasks, the task has no such metric, a teacher
            has other magnifications than needed, or no model can follow the budgets.
    """
    _metric_of(_shared_task(candidates), metric)
    refuse_unfit_teachers(candidates)
    if shares:
        zooming(candidates)


def _shared_task(candidates: Sequence[Candidate]) -> Task:
    """Return the task of all models.

    Raises:
        ComparisonError: they differ in it.
    """
    first, *others = [candidate.settings.train.build_task() for candidate in candidates]
    if any(task != first for task in others):
        raise ComparisonError("the models have different tasks; compare models of one task.")
    return first


def _metric_of(task: Task, metric: str | None) -> str:
    """Return the metric that ranks the models.

    Raises:
        ComparisonError: the task has no such metric.
    """
    if metric is None:
        return task.compared[0]
    if metric not in task.compared:
        raise ComparisonError(
            f"--metric {metric}: a comparison of task {task.name} ranks by one of "
            f"{', '.join(task.compared)}."
        )
    return metric


def _require_test_slides(cohort: Cohort, candidates: Sequence[Candidate]) -> None:
    """Raise if a model would have no test slides."""
    for candidate in candidates:
        if not all(split.test for split in make_splits(cohort, candidate.settings.train)):
            raise ComparisonError(
                f"{cohort.source.name}: there are no test slides; put some slides into split test, "
                "or add --set train.test_fraction=0.15."
            )


def _refuse_unusable(cohort: Cohort, candidates: Sequence[Candidate], out: Path) -> None:
    """Refuse targets, covariates and teachers that cannot be used, before slides are read."""
    names = [candidate.name for candidate in candidates]
    for each in candidates:
        train = replace(each.settings.train, labels=cohort.labels or None)
        settings = replace(each.settings, train=train)
        task = prepared_task(train.build_task(), cohort)
        splits = make_splits(cohort, train)
        refuse_unusable_columns(cohort, splits, train, task)
        if not awaits_teacher(each, names):
            refuse_unusable_teacher(settings, task, splits, out / each.name / "seed-0")


def _list_unreadable(
    cohort: Cohort,
    unreadable: dict[str, str],
    features: FeatureFolder | None,
    *,
    skip: bool,
) -> dict[str, str]:
    """Refuse slides that cannot be read, or log them if they are to be left out."""
    total, how = len(cohort.slides), _how_to_set(unreadable.values())
    if unreadable and not skip:
        message = describe_unreadable(unreadable, total, task="compare", features=features)
        raise ComparisonError(f"{cohort.source.name}: {message}{how}")
    for kind in group_failures(unreadable):
        logger.warning("left out: %s", kind)
    if len(unreadable) == total:
        raise ComparisonError(f"{cohort.source.name}: no slide could be used; replace them.{how}")
    return unreadable


def _how_to_set(reasons: Collection[str]) -> str:
    """Return how to set the magnifications in a comparison; empty if no reason names them."""
    if not any(MAGNIFICATIONS in reason for reason in reasons):
        return ""
    return (
        f" In a comparison, set {MAGNIFICATIONS} of a model with --set "
        f"MODEL:{MAGNIFICATIONS}=[5,10], or of all models with --set {MAGNIFICATIONS}=[5,10]."
    )


@dataclass(frozen=True)
class _Comparison:
    """Runs the trainings, and writes the tables after each model; see `compare`."""

    shared: SharedSetup
    names: Sequence[str]
    metric: str
    resamples: int
    shares: Sequence[float]
    _results: dict[str, ModelResult] = field(default_factory=dict)

    def run(self, distribution: Distribution) -> list[ComparisonRow]:
        """Train, evaluate and time the models; at the end, measure the curve."""
        work, curve = Trainings(self.shared), None
        work.refuse_other_runs()
        work_list = WorkList(
            *(self.shared.out, "comparing", work),
            unit="trainings",
            distribution=distribution,
            made_by=str([each.settings.to_plain() for each in self.shared.candidates]),
            ready=work.ready,
        )
        ended: dict[str, Ended[Path]] = {}
        rows: list[ComparisonRow] = []
        try:
            for each in work_list.run():
                ended[each.item] = each
                rows = self._finish_models(work, ended) or rows
            ended |= {each.item: each for each in work_list.rest()}
            rows = self._finish_models(work, ended) or rows
            if self.shares:
                curve = _measure_curve(self.shared, rows, self.shares, self.metric, self.resamples)
                _write_tables(self.shared.out, rows, self.metric, self.shared.unreadable, curve)
        finally:  # an interrupted comparison shows the models that are done
            if rows:
                _write_report(self.shared.out, rows, self.metric, self.shared.unreadable, curve)
        return rows

    def _finish_models(
        self, work: Trainings, ended: Mapping[str, Ended[Path]]
    ) -> list[ComparisonRow]:
        """Collect the results of models whose trainings have now ended, and write the tables."""
        whole = [
            candidate
            for candidate in teachers_first(self.shared.candidates)
            if candidate.name not in self._results
            and all(each.item in ended for each in work.of(candidate))
        ]
        for candidate in whole:
            trainings = [ended[each.item] for each in work.of(candidate)]
            # One process at a time: the seconds are measured once.
            with hold(self.shared.out / CLAIM_FILE, wait_s=FINISH_WAIT_S):
                self._results[candidate.name] = _finish(self.shared, work, candidate, trainings)
        if not whole:
            return []
        order = [each.name for each in teachers_first(self.shared.candidates)]
        results = [self._results[name] for name in order if name in self._results]
        rows = score_results(results, self.metric, names=self.names, resamples=self.resamples)
        _write_tables(self.shared.out, rows, self.metric, self.shared.unreadable)
        return rows


def _finish(
    shared: SharedSetup, work: Trainings, candidate: Candidate, ended: Sequence[Ended[Path]]
) -> ModelResult:
    """Return the result of a model; if it failed, with the reason."""
    reason = next((each.reason for each in ended if each.reason is not None), None)
    if reason is not None:
        return ModelResult(candidate.name, reason=reason)
    try:
        work.finish(candidate, ended)
        return _collect_result(shared, candidate, [shared.out / each.item for each in ended])
    except Exception as error:  # a bug in one model must not stop the others
        reraise_interrupt(error)
        logger.warning("%s failed: %s", candidate.name, error)
        return ModelResult(candidate.name, reason=describe_error(error))


def _measure_curve(
    shared: SharedSetup,
    rows: Sequence[ComparisonRow],
    shares: Sequence[float],
    metric: str,
    resamples: int,
) -> Curve | None:
    """Return the curve of the models that did not fail; None if no zooming model is left."""
    done = {row.result.name for row in rows if row.result.reason is None}
    zooming_models = [each for each in zooming(shared.candidates) if each.name in done]
    others = [
        each.name
        for each in shared.candidates
        if each.name in done and not each.settings.model.traits.zooms
    ]
    if not zooming_models:
        return None
    return measure_curve(shared, zooming_models, others, shares, metric, resamples=resamples)


def _write_tables(
    out: Path,
    rows: Sequence[ComparisonRow],
    metric: str,
    unreadable: Mapping[str, str],
    curve: Curve | None = None,
) -> None:
    write_whole(out / "results.csv", to_csv(rows, metric).encode())
    left_out = "".join(f"- {slide_id}: {reason}\n" for slide_id, reason in unreadable.items())
    note = f"\nSlides that cannot be read and are left out:\n\n{left_out}" if left_out else ""
    shares = f"\n{curve_markdown(curve)}" if curve is not None else ""
    write_whole(out / "results.md", (to_markdown(rows, metric) + note + shares).encode())


def _write_report(
    out: Path,
    rows: Sequence[ComparisonRow],
    metric: str,
    unreadable: Mapping[str, str],
    curve: Curve | None,
) -> None:
    # Both import matplotlib, which takes a second.
    from parfocal.compare.picture import draw_comparison  # noqa: PLC0415
    from parfocal.compare.report import comparison_page  # noqa: PLC0415

    picture = draw_comparison(rows, metric)
    write_whole(out / "results.png", picture)
    page = out / "report.html"
    with optional_report(page, retry_command="the same command, which resumes"):
        content = comparison_page(
            rows, metric, picture, unreadable=unreadable, curve=curve, svg=_curve_svg(out, curve)
        )
        write_whole(page, content.encode())


def _curve_svg(out: Path, curve: Curve | None) -> str:
    return "" if curve is None else (out / "curve.svg").read_text(encoding="utf-8")


def _collect_result(shared: SharedSetup, candidate: Candidate, runs: Sequence[Path]) -> ModelResult:
    """Read the evaluations of all runs of a model."""
    evaluations = [run / "evaluation" for run in runs]
    metrics = [read_metrics(each / "metrics.json") for each in evaluations]
    return ModelResult(
        candidate.name,
        runs=read_all_predictions(evaluations, metrics),
        macs=mean_macs(shared, candidate, metrics),
        patches=mean_patches(metrics),
        seconds=load_or_measure_seconds(shared, candidate, runs[0]),
        failed=sum(len(each["failed"]) for each in metrics),
        classes=count_slides(evaluations, metrics),
        encoder=metrics[0]["model"].get("encoder"),
    )
