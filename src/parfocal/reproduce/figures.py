"""The figures of a paper that the library draws, from the first run of each experiment."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from parfocal.dataset import Cohort, CohortSlide, read_split
from parfocal.explain.report.charts import Axis, line_chart
from parfocal.explain.report.curves import micro, precision_recall, roc
from parfocal.explain.zoom_tree import draw_gray_filter
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.folder import FailedSlide, predict_slides
from parfocal.reproduce.experiments import Reproduction
from parfocal.reproduce.values import Outcome
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import open_slide

logger = logging.getLogger(__name__)

SHOWN = 4  # test slides, of each class in turn


@dataclass(frozen=True)
class Figure:
    """A figure: charts, or pictures by their path from the page."""

    title: str
    charts: tuple[Markup, ...] = ()
    pictures: tuple[str, ...] = ()


def draw_figures(
    reproduction: Reproduction,
    tested: Mapping[str, Outcome],
    cohort: Cohort,
    out: Path,
    *,
    device: str,
) -> list[Figure]:
    """Draw what a paper shows besides its tables; an experiment that failed is left out.

    Args:
        reproduction: says which figures.
        tested: the experiments, by name.
        cohort: the slides.
        out: folder of the page.
        device: where models run.
    """
    wanted = reproduction.figures
    done = {name: each for name, each in tested.items() if each.reason is None}
    figures = [Figure("Score against cost", pictures=("runs/results.png",))] * wanted.cost
    curves = [name for name in wanted.curves if name in done]
    if curves:
        figures.append(_curves(reproduction, curves, done))
    for name in wanted.maps:
        if name in done:
            title = f"Where {reproduction.label_of(name)} looked, seed 0"
            pictures = _maps(done[name].runs[0], cohort, out / "figures" / name, device)
            shown = tuple(
                str(picture.relative_to(out))
                for picture in pictures
                if not (wanted.filtered and picture.stem.endswith("-filter"))  # have one of all
            )
            figures.append(Figure(title, pictures=shown))
    if wanted.filtered and done:
        run = next(iter(done.values())).runs[0]
        figures.append(_filtered(_shown(cohort, run), out))
    return [figure for figure in figures if figure.charts or figure.pictures]


def _curves(
    reproduction: Reproduction, names: Sequence[str], done: Mapping[str, Outcome]
) -> Figure:
    """Draw ROC and precision against recall, micro-averaged, a curve an experiment."""
    answers = {reproduction.label_of(name): done[name].row.result.runs[0] for name in names}
    asked = {label: micro(said.truth, said.probabilities) for label, said in answers.items()}
    rocs = [roc(truth, chance, label) for label, (truth, chance) in asked.items()]
    precisions = [
        precision_recall(truth, chance, label) for label, (truth, chance) in asked.items()
    ]
    charts = (
        line_chart(rocs, Axis("false positives"), Axis("true positives"), diagonal=True),
        line_chart(precisions, Axis("recall"), Axis("precision")),
    )
    return Figure("ROC, and precision against recall, micro-averaged, seed 0", charts)


def _maps(run: Path, cohort: Cohort, folder: Path, device: str) -> list[Path]:
    """Show where a model looked on a few test slides."""
    slides, trained = _shown(cohort, run), Checkpoint.load(run)
    outlines = {slide.path: slide.outlines for slide in slides if slide.outlines is not None}
    answers = predict_slides(
        [slide.path for slide in slides],
        trained,
        folder,
        mpp=slides[0].mpp,  # the same all over a set
        device=device,
        outlines=outlines if trained.traits.has_leaves else None,
    )
    for answer in answers:
        if isinstance(answer, FailedSlide):
            logger.warning("%s No picture of it.", answer.reason)
    return sorted(folder.glob("*.png"), key=lambda picture: picture.stem)


def _filtered(slides: Sequence[CohortSlide], out: Path) -> Figure:
    path = out / "figures" / "without-gray.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        opened = []
        for slide in slides:
            try:
                opened.append(stack.enter_context(open_slide(slide.path, mpp=slide.mpp)))
            except SlideError as error:
                logger.warning("%s No picture of it.", error)
        draw_gray_filter(opened, path)
    return Figure("Slides without what is gray", pictures=(str(path.relative_to(out)),))


def _shown(cohort: Cohort, run: Path) -> list[CohortSlide]:
    """Choose test slides of each class in turn."""
    parts = {row.slide_id: row.split for row in read_split(run / "split.csv")}
    by_label = {
        label: [s for s in cohort.slides if s.label == label and parts.get(s.slide_id) == "test"]
        for label in cohort.labels
    }
    most = max(map(len, by_label.values()))
    turns = [
        slides[turn] for turn in range(most) for slides in by_label.values() if turn < len(slides)
    ]
    return turns[:SHOWN]
