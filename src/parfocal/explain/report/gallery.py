"""Pictures for a report: the patches that counted most, and the worst mistakes."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from parfocal.explain.inline_images import jpeg_url, squares_of
from parfocal.explain.library import Library, ListedSlide, PredictionSummary
from parfocal.explain.read_record import read_prediction
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Box, Slide, open_slide

PATCHES = 12  # for each class
MISTAKES = 6
PATCH_PX = 112
SLIDE_PX = 320

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A picture with what is told below it."""

    source: str
    title: str
    lines: tuple[str, ...]
    squares: Markup | str = ""


@dataclass(frozen=True)
class Row:
    """A slide with one prediction of it."""

    slide: ListedSlide
    said: PredictionSummary

    @property
    def sure(self) -> float:
        """The probability of the answer."""
        return self.said.probabilities[self.said.label]

    @property
    def wrong(self) -> bool:
        """Whether the answer is known to be another."""
        return self.slide.truth.label not in (None, self.said.label)


def rows_of(library: Library) -> list[Row]:
    """Give every prediction with its slide."""
    return [Row(slide, said) for slide in library.slides.values() for said in slide.predictions]


def most_attended_patches(rows: Sequence[Row]) -> dict[str, list[Picture]]:
    """Show, for each answer, the patch that counted most on the slides surest of it."""
    galleries: dict[str, list[Picture]] = {}
    for row in sorted(rows, key=lambda row: -row.sure):
        gallery = galleries.setdefault(row.said.label, [])
        if len(gallery) < PATCHES:
            gallery += _best_patch(row)
    return {label: pictures for label, pictures in sorted(galleries.items()) if pictures}


def worst_mistakes(rows: Sequence[Row]) -> list[Picture]:
    """Show the wrong answers that were surest, with where the model looked."""
    wrong = sorted((row for row in rows if row.wrong), key=lambda row: -row.sure)
    return [picture for row in wrong[:MISTAKES] for picture in _mistake(row)]


def _best_patch(row: Row) -> Iterator[Picture]:
    record = read_prediction(row.said.path)
    for best in record.top_regions(1):
        said = f"{best.score_kind} {best.score:.2g}"
        if best.score_kind == "class_probability":
            said = f"{record.label} {best.score:.2f} after it"
        for slide in _opened(row.slide):
            pixels = slide.read(Box(best.x, best.y, best.width, best.height), best.mpp)
            told = said, f"{record.magnification_at(best.mpp):g}x"
            yield Picture(jpeg_url(pixels, PATCH_PX), row.slide.id, told)


def _mistake(row: Row) -> Iterator[Picture]:
    record = read_prediction(row.said.path)
    for slide in _opened(row.slide):
        width, height = slide.size
        scale = max(1.0, max(width, height) / SLIDE_PX)
        pixels = slide.read(Box(0, 0, width, height), slide.mpp * scale)
        told = (
            f"is {row.slide.truth.label}, taken for {row.said.label} with {row.sure:.2f}",
            row.said.bill,
        )
        yield Picture(jpeg_url(pixels, SLIDE_PX), row.slide.id, told, squares_of(record))


def _opened(listed: ListedSlide) -> Iterator[Slide]:
    """Open a slide if it is there; a picture less is told, and no reason to write no report."""
    if listed.path is None:
        logger.warning("%s No picture of it in the report.", listed.problem)
        return
    try:
        with open_slide(listed.path, mpp=listed.given_mpp) as slide:
            if slide.fingerprint == listed.fingerprint:
                yield slide
            else:
                logger.warning("%s: another file by now; no picture of it.", listed.path)
    except SlideError as error:
        logger.warning("%s No picture of it in the report.", error)
