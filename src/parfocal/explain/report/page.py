"""Write the report: one self-contained HTML file, for the screen and for print."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from parfocal.explain.read_record import read_prediction
from parfocal.explain.record import PredictionRecord
from parfocal.explain.report.gallery import Row, confident_errors, rows_of, top_patches
from parfocal.explain.report.plots import cost_chart, evaluation_charts, training_charts
from parfocal.explain.report.sources import Sources, find_sources
from parfocal.explain.report.template import render
from parfocal.files import write_whole
from parfocal.metrics import METRICS


@dataclass(frozen=True)
class VisitedPatches:
    """The visited patches by magnification, averaged over the predictions of one model.

    Args:
        model: name of the model.
        slides: number of predictions.
        sampled: whether scores are sampling probabilities, which sum to 1 over magnifications.
        rows: magnification, mean number of visited patches, mean sum of scores.
    """

    model: str
    slides: int
    sampled: bool
    rows: tuple[tuple[float, float, float], ...]


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    cohort: Path | None = None,
    moved_to: Sequence[Path] = (),
) -> None:
    """Write runs, evaluations and predictions as one HTML page.

    Args:
        paths: folders of runs, evaluations and predictions, or folders that contain these.
        out: the HTML file to write; written completely or not at all.
        cohort: cohort table with the labels of the slides, if none is in the folders.
        moved_to: folders in which to look for slide files that have moved since the prediction.

    Raises:
        ReportError: there is nothing to report, or a file cannot be read.
        LibraryError: a path does not exist, or tables disagree on the label of a slide.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    sources = find_sources(paths, cohort=cohort, moved_to=moved_to)
    names = [path.resolve().name for path in (*paths, *([] if cohort is None else [cohort]))]
    write_whole(out, _render(sources, names).encode())


def _render(sources: Sources, names: Sequence[str]) -> str:
    rows = rows_of(sources.library)
    return render(
        "report.html",
        models=_model_names(sources, rows),
        written=datetime.now(tz=UTC).date(),
        names=names,
        runs=[(run, training_charts(run)) for run in sources.runs],
        evaluations=[(each, evaluation_charts(each)) for each in sources.evaluations],
        cost_chart=cost_chart(sources.evaluations),
        metric_labels=METRICS,
        rows=sorted(rows, key=lambda row: (not row.wrong, -row.confidence)),
        visited=list(_visited_patches(rows)),
        galleries=top_patches(rows),
        errors=confident_errors(rows),
        problems=sources.library.problems,
    )


def _model_names(sources: Sources, rows: Sequence[Row]) -> list[str]:
    """Return the name of each model once."""
    trained = [run.settings["model"]["name"] for run in sources.runs]
    evaluated = [evaluation.metrics["model"]["name"] for evaluation in sources.evaluations]
    return list(dict.fromkeys(trained + evaluated or [row.prediction.model for row in rows]))


def _visited_patches(rows: Sequence[Row]) -> Iterator[VisitedPatches]:
    """Average the visited patches over the predictions of each model."""
    for model in dict.fromkeys(row.prediction.model for row in rows):
        paths = [row.prediction.path for row in rows if row.prediction.model == model]
        records = [read_prediction(path) for path in paths]
        sampled = records[0].regions[0].score_kind == "sampling_probability"
        yield VisitedPatches(model, len(records), sampled, tuple(_means_by_magnification(records)))


def _means_by_magnification(
    records: Sequence[PredictionRecord],
) -> Iterator[tuple[float, float, float]]:
    """Yield each magnification with its mean number of visited patches and mean sum of scores."""
    for step, mpp in enumerate(records[0].mpps):
        regions = [region for record in records for region in record.regions_at(step)]
        visited = sum(region.visited for region in regions)
        score = sum(region.score for region in regions)
        yield records[0].magnification_at(mpp), visited / len(records), score / len(records)
