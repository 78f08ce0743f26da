"""Write the report: one self-contained HTML file, for the screen and for print."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os.path import realpath  # Path.resolve raises for a link that leads to itself
from pathlib import Path

from markupsafe import Markup

from parfocal.explain.library import Library, list_problem
from parfocal.explain.read_record import read_prediction
from parfocal.explain.record import PredictionRecord
from parfocal.explain.report.gallery import Row, confident_errors, rows_of, top_patches
from parfocal.explain.report.plots import cost_chart, evaluation_charts, training_charts
from parfocal.explain.report.sources import Evaluation, Run, Sources, find_sources
from parfocal.explain.report.stops import RunningAnswers, Stop, running_answers, stops
from parfocal.explain.report.template import render
from parfocal.files import write_whole
from parfocal.metrics import METRICS, THRESHOLD_METRICS
from parfocal.printable import printable


@dataclass(frozen=True)
class VisitedPatches:
    """The visited patches by magnification, averaged over the predictions of one model.

    Args:
        model: name of the model.
        slides: number of predictions.
        sampled: whether scores are sampling probabilities, which sum to 1 over magnifications.
        rows: magnification, mean number of visited patches, mean sum of scores.
        stops: reasons for stopping, the most frequent first.
        running_answers: chart of running answers; None if no slide has several rounds.
    """

    model: str
    slides: int
    sampled: bool
    rows: tuple[tuple[float, float, float], ...]
    stops: list[Stop]
    running_answers: RunningAnswers | None


@dataclass(frozen=True)
class _Drawn:
    """Runs and evaluations with their charts."""

    runs: Sequence[tuple[Run, list[Markup]]] = ()
    evaluations: Sequence[tuple[Evaluation, list[tuple[str, Markup]]]] = ()


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    cohort: Path | None = None,
    moved_to: Sequence[Path] = (),
) -> tuple[str, ...]:
    """Write runs, evaluations and predictions as one HTML page.

    What cannot be read or shown is listed on the page.

    Args:
        paths: folders of runs, evaluations and predictions, or folders that contain these.
        out: the HTML file to write; written completely or not at all.
        cohort: cohort table with the labels of the slides, if none is in the folders.
        moved_to: folders in which to look for slide files that have moved since the prediction.

    Returns:
        What could not be read or shown, with the reasons.

    Raises:
        ReportError: there is nothing to report.
        LibraryError: tables disagree on the label of a slide.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    sources = find_sources(paths, cohort=cohort, moved_to=moved_to)
    given = (*paths, *([] if cohort is None else [cohort]))
    names = [printable(Path(realpath(path)).name) for path in given]
    page = _render(_draw(sources), sources.library, names)
    write_whole(out, page.encode(errors="xmlcharrefreplace"))
    return tuple(sources.library.problems)


def _draw(sources: Sources) -> _Drawn:
    """Draw the charts; list incomplete runs and evaluations as problems, and leave them out."""
    problems = sources.library.problems
    runs, evaluations = [], []
    for run in sources.runs:
        with list_problem(run.folder, problems):
            drawn_run = (run, training_charts(run))
            _render(_Drawn(runs=[drawn_run]), Library(), ())
            runs.append(drawn_run)
    for evaluation in sources.evaluations:
        with list_problem(evaluation.file, problems):
            drawn = (evaluation, evaluation_charts(evaluation))
            _render(_Drawn(evaluations=[drawn]), Library(), ())
            evaluations.append(drawn)
    return _Drawn(runs, evaluations)


def _render(drawn: _Drawn, library: Library, names: Sequence[str]) -> str:
    rows = rows_of(library)
    records = _read_records(rows, library.problems)
    return render(
        "report.html",
        models=_model_names(drawn, rows),
        written=datetime.now(tz=UTC).date(),
        names=names,
        runs=drawn.runs,
        evaluations=drawn.evaluations,
        cost_chart=cost_chart([evaluation for evaluation, _ in drawn.evaluations]),
        metric_labels=METRICS,
        threshold_labels=THRESHOLD_METRICS,
        rows=sorted(rows, key=lambda row: (not row.wrong, -row.confidence)),
        visited=list(_visited_patches(records)),
        galleries=top_patches(rows),
        errors=confident_errors(rows),
        failed=library.failed,
        problems=library.problems,
    )


def _read_records(rows: Sequence[Row], problems: list[str]) -> dict[str, list[PredictionRecord]]:
    """Read the predictions of each model; one that has been changed since is listed."""
    records: dict[str, list[PredictionRecord]] = {}
    for row in rows:
        with list_problem(row.prediction.path, problems):
            record = read_prediction(row.prediction.path)
            records.setdefault(row.prediction.model, []).append(record)
    return records


def _model_names(drawn: _Drawn, rows: Sequence[Row]) -> list[str]:
    """Return the name of each model once."""
    trained = [run.settings["model"]["name"] for run, _ in drawn.runs]
    evaluated = [evaluation.metrics["model"]["name"] for evaluation, _ in drawn.evaluations]
    return list(dict.fromkeys(trained + evaluated or [row.prediction.model for row in rows]))


def _visited_patches(records: Mapping[str, list[PredictionRecord]]) -> Iterator[VisitedPatches]:
    """Average the visited patches over the predictions of each model."""
    for model, each in records.items():
        sampled = each[0].regions[0].score_kind == "sampling_probability"
        means = tuple(_means_by_magnification(each))
        yield VisitedPatches(model, len(each), sampled, means, stops(each), running_answers(each))


def _means_by_magnification(
    records: Sequence[PredictionRecord],
) -> Iterator[tuple[float, float, float]]:
    """Yield each magnification with its mean number of visited patches and mean sum of scores."""
    deepest = max(
        records, key=lambda record: len(record.mpps)
    )  # a budget may be spent before a zoom
    for step, mpp in enumerate(deepest.mpps):
        regions = [region for record in records for region in record.regions_at(step)]
        visited = sum(region.visited for region in regions)
        score = sum(region.score for region in regions)
        yield deepest.magnification_at(mpp), visited / len(records), score / len(records)
