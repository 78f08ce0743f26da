"""Draw the figures of a paper from the first run of each experiment."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from parfocal.compare.scores import labeled_runs
from parfocal.dataset import Cohort, CohortSlide, read_split
from parfocal.explain.report.charts import Axis, line_chart
from parfocal.explain.report.curves import micro, precision_recall, roc
from parfocal.explain.zoom_tree import draw_gray_filter
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.folder import FailedSlide, predict_slides
from parfocal.reproduce.experiments import Reproduction
from parfocal.reproduce.values import ExperimentResult
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import open_slide

logger = logging.getLogger(__name__)

MAX_SLIDES = 4  # slides shown in a figure


@dataclass(frozen=True)
class Figure:
    """A figure of charts or of pictures.

    Args:
        title: heading.
        charts: inline SVG charts.
        pictures: paths of pictures, relative to the page.
    """

    title: str
    charts: tuple[Markup, ...] = ()
    pictures: tuple[str, ...] = ()


def draw_figures(
    reproduction: Reproduction,
    results: Mapping[str, ExperimentResult],
    cohort: Cohort,
    out: Path,
    *,
    device: str,
) -> list[Figure]:
    """Draw the figures of a paper; experiments that failed are left out.

    Args:
        reproduction: the tables, which list the figures.
        results: experiments by name.
        cohort: the slides.
        out: folder of the page.
        device: device for the models.
    """
    wanted = reproduction.figures
    done = {name: result for name, result in results.items() if result.reason is None}
    figures = [Figure("Score against cost", pictures=("runs/results.png",))] * wanted.cost
    curves = [name for name in wanted.curves if name in done]
    if curves:
        figures.append(_draw_curves(reproduction, curves, done))
    for name in wanted.maps:
        if name in done:
            title = f"Patches visited by {reproduction.label_of(name)}, seed 0"
            trained = Checkpoint.load(
                done[name].runs[0], trust_remote_code=reproduction.trust_remote_code
            )
            slides = _select_slides(cohort, done[name].runs[0])
            pictures = _draw_maps(trained, slides, out / "figures" / name, device)
            if wanted.gray_filter:  # shown once for all experiments, below
                pictures = [path for path in pictures if not path.stem.endswith("-filter")]
            paths = tuple(str(path.relative_to(out)) for path in pictures)
            figures.append(Figure(title, pictures=paths))
    if wanted.gray_filter and done:
        run = next(iter(done.values())).runs[0]
        figures.append(_draw_gray_filter(_select_slides(cohort, run), out))
    return [figure for figure in figures if figure.charts or figure.pictures]


def _draw_curves(
    reproduction: Reproduction, names: Sequence[str], done: Mapping[str, ExperimentResult]
) -> Figure:
    """Draw micro-averaged ROC and precision-recall curves, one line per experiment."""
    rocs, precisions = [], []
    for name in names:
        run, label = labeled_runs(done[name].row.result)[0], reproduction.label_of(name)
        truth, scores = micro(run.truth, run.probabilities)
        rocs.append(roc(truth, scores, label))
        precisions.append(precision_recall(truth, scores, label))
    rates = Axis("false positive rate"), Axis("true positive rate")
    charts = (
        line_chart(rocs, *rates, diagonal=True),
        line_chart(precisions, Axis("recall"), Axis("precision")),
    )
    return Figure("ROC and precision-recall curves, micro-averaged, seed 0", charts)


def _draw_maps(
    trained: Checkpoint, slides: Sequence[CohortSlide], folder: Path, device: str
) -> list[Path]:
    """Predict a few slides, and return the pictures of the visited patches."""
    outlines = {slide.path: slide.outlines for slide in slides if slide.outlines is not None}
    answers = predict_slides(
        [slide.path for slide in slides],
        trained,
        folder,
        mpp=slides[0].mpp,  # the same for all slides of a data set
        device=device,
        outlines=outlines if trained.traits.has_leaves else None,
    )
    for answer in answers:
        if isinstance(answer, FailedSlide):
            logger.warning("%s It has no picture.", answer.reason)
    return sorted(folder.glob("*.png"), key=lambda picture: picture.stem)


def _draw_gray_filter(slides: Sequence[CohortSlide], out: Path) -> Figure:
    path = out / "figures" / "without-gray.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        readable = []
        for slide in slides:
            try:
                readable.append(stack.enter_context(open_slide(slide.path, mpp=slide.mpp)))
            except SlideError as error:
                logger.warning("%s It has no picture.", error)
        draw_gray_filter(readable, path)
    return Figure("Slides after the gray filter", pictures=(str(path.relative_to(out)),))


def _select_slides(cohort: Cohort, run: Path) -> list[CohortSlide]:
    """Return a few test slides, alternating between the classes."""
    parts = {row.slide_id: row.split for row in read_split(run / "split.csv")}
    by_label = {
        label: [s for s in cohort.slides if s.label == label and parts.get(s.slide_id) == "test"]
        for label in cohort.labels
    }
    most = max(map(len, by_label.values()))
    alternating = [
        slides[turn] for turn in range(most) for slides in by_label.values() if turn < len(slides)
    ]
    return alternating[:MAX_SLIDES]
