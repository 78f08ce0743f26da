"""The report: one HTML file with everything in it, for the screen and for paper."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from parfocal.explain.read_record import read_prediction
from parfocal.explain.record import PredictionRecord
from parfocal.explain.report.charts import Axis, Line, line_chart
from parfocal.explain.report.curves import calibration, micro, precision_recall, roc
from parfocal.explain.report.gallery import Row, most_attended_patches, rows_of, worst_mistakes
from parfocal.explain.report.sources import Evaluated, Run, Sources, find_sources
from parfocal.explain.report.template import render
from parfocal.files import write_whole
from parfocal.metrics import METRICS


@dataclass(frozen=True)
class Shares:
    """Of the predictions of one model: what was looked at, and what counted, by magnification.

    Args:
        model: its name.
        slides: how many predictions.
        probable: whether scores sum to 1 over all magnifications, so that shares tell something.
        rows: magnification, mean number of patches, mean sum of their scores.
    """

    model: str
    slides: int
    probable: bool
    rows: tuple[tuple[float, float, float], ...]


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    cohort: Path | None = None,
    moved_to: Sequence[Path] = (),
) -> None:
    """Write what is known of runs, evaluations and predictions as one page.

    Args:
        paths: their folders, or folders around them.
        out: the HTML file; written whole or not at all.
        cohort: a table with the slides' labels, where none lies in the folders.
        moved_to: folders to look for slide files in that are no longer where they were.

    Raises:
        ReportError: there is nothing to report on, or a file of it cannot be read.
        LibraryError: a path is not there, or two tables give a slide different labels.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    sources = find_sources(paths, cohort=cohort, moved_to=moved_to)
    names = [path.resolve().name for path in (*paths, *([] if cohort is None else [cohort]))]
    write_whole(out, _render(sources, names).encode())


def _render(sources: Sources, names: Sequence[str]) -> str:
    rows = rows_of(sources.library)
    return render(
        "report.html",
        models=_models(sources, rows),
        written=datetime.now(tz=UTC).date(),
        names=names,
        runs=[(run, _learning(run)) for run in sources.runs],
        evaluations=[(each, _curves(each)) for each in sources.evaluations],
        trade_off=_trade_off(sources.evaluations),
        measures=METRICS,
        rows=sorted(rows, key=lambda row: (not row.wrong, -row.sure)),
        shares=list(_shares(rows)),
        galleries=most_attended_patches(rows),
        mistakes=worst_mistakes(rows),
        problems=sources.library.problems,
    )


def _models(sources: Sources, rows: Sequence[Row]) -> list[str]:
    """Name the models, once each."""
    trained = [run.settings["model"]["name"] for run in sources.runs]
    evaluated = [each.metrics["model"]["name"] for each in sources.evaluations]
    return list(dict.fromkeys(trained + evaluated or [row.said.model for row in rows]))


def _learning(run: Run) -> list[Markup]:
    """Draw the loss, and what was chosen by, over the epochs."""
    charts = []
    for title, names in (
        ("loss", {"train_loss": "training", "val_loss": "validation"}),
        (
            "on validation slides",
            {"val_weighted_f1": METRICS["weighted_f1"], "val_auroc": METRICS["auroc_macro"]},
        ),
    ):
        lines = [_over_epochs(run, name, text) for name, text in names.items()]
        drawn = [line for line in lines if len(line.x) > 1]
        if drawn:
            epochs = Axis.over("epoch", [line.x[-1] for line in drawn], whole=True)
            up = Axis.over(title, [y for line in drawn for y in line.y])
            charts.append(line_chart(drawn, epochs, up))
    return charts


def _over_epochs(run: Run, column: str, name: str) -> Line:
    values = [(epoch["epoch"], epoch.get(column)) for epoch in run.epochs]
    known = [(x, y) for x, y in values if x is not None and y is not None]
    return Line(name, tuple(x for x, _ in known), tuple(y for _, y in known))


def _curves(evaluated: Evaluated) -> list[tuple[str, Markup]]:
    """Draw ROC, precision against recall, and calibration."""
    if not len(evaluated.truth):
        return []
    asked = {
        label: (evaluated.truth == place, evaluated.chances[:, place])
        for place, label in enumerate(evaluated.labels)
    } | {"micro-averaged": micro(evaluated.truth, evaluated.chances)}
    rocs = [roc(truth, chance, name) for name, (truth, chance) in asked.items()]
    precisions = [precision_recall(truth, chance, name) for name, (truth, chance) in asked.items()]
    answers, error = calibration(evaluated.truth, evaluated.chances, "answers")
    said, right = Axis("probability of the answer"), Axis("share that was right")
    return [
        ("ROC", line_chart(rocs, Axis("false positives"), Axis("true positives"), diagonal=True)),
        ("Precision and recall", line_chart(precisions, Axis("recall"), Axis("precision"))),
        (
            f"Calibration (expected error {error:.3f})",
            line_chart([answers], said, right, diagonal=True, joined=False),
        ),
    ]


def _trade_off(evaluations: Sequence[Evaluated]) -> Markup | None:
    """Draw how good each evaluated model is against how much it looked at."""
    points = []
    for each in evaluations:
        share = each.metrics["cost"]["share_patches"]
        auroc = each.metrics["slides"]["scores"]["auroc_macro"]["value"]
        if share is not None and auroc is not None:
            name = f"{each.metrics['model']['name']} ({each.name})"
            points.append(Line(name, (100 * share["mean"],), (auroc,)))
    if len(points) < 2:
        return None
    across = Axis.over("% of the patches looked at", [line.x[0] for line in points])
    return line_chart(points, across, Axis(METRICS["auroc_macro"]), joined=False)


def _shares(rows: Sequence[Row]) -> Iterator[Shares]:
    """Average what each model looked at; where scores sum over magnifications, also those."""
    for model in dict.fromkeys(row.said.model for row in rows):
        records = [read_prediction(row.said.path) for row in rows if row.said.model == model]
        probable = records[0].regions[0].score_kind == "sampling_probability"
        yield Shares(model, len(records), probable, tuple(_looked_at(records)))


def _looked_at(records: Sequence[PredictionRecord]) -> Iterator[tuple[float, float, float]]:
    """Average over predictions; the mpp achieved may differ a little between slides."""
    for step, mpp in enumerate(records[0].mpps):
        regions = [region for r in records for region in r.regions if region.step == step]
        looked = sum(region.order is not None for region in regions)
        score = sum(region.score for region in regions)
        yield records[0].magnification_at(mpp), looked / len(records), score / len(records)
