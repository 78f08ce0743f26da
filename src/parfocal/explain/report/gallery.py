"""Pictures in a report: the patches that counted most, and the most confident errors."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from markupsafe import Markup

from parfocal.explain.inline_images import jpeg_url, patch_overlay
from parfocal.explain.library import Library, ListedSlide, PredictionSummary
from parfocal.explain.open_listed import open_listed
from parfocal.explain.read_record import read_prediction
from parfocal.printable import named_number
from parfocal.slide.failure import catch_failure
from parfocal.slide.slide import Box

PATCHES_PER_CLASS = 12
ERRORS = 6
PATCH_PX = 112
SLIDE_PX = 320

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A picture with text below it.

    Args:
        source: data URL of the image.
        title: first line of the text, in bold.
        lines: further lines.
        overlay: SVG drawn over the image.
    """

    source: str
    title: str
    lines: tuple[str, ...]
    overlay: Markup | str = ""


@dataclass(frozen=True)
class Row:
    """A slide and one prediction of it.

    Args:
        slide: the slide.
        prediction: the prediction.
    """

    slide: ListedSlide
    prediction: PredictionSummary

    @property
    def confidence(self) -> float:
        """Probability of the predicted class; 0 for a task without classes."""
        return self.prediction.probabilities.get(self.prediction.label, 0.0)

    @property
    def wrong(self) -> bool:
        """Whether the true label is known and differs from the prediction."""
        return bool(self.prediction.probabilities) and (
            self.slide.truth.label not in (None, self.prediction.label)
        )


def rows_of(library: Library) -> list[Row]:
    """Return every prediction of a library with its slide."""
    return [
        Row(slide, prediction)
        for slide in library.slides.values()
        for prediction in slide.predictions
    ]


def top_patches(rows: Sequence[Row]) -> dict[str, list[Picture]]:
    """Return, for each predicted class, the top patch of the most confident predictions."""
    galleries: dict[str, list[Picture]] = {}
    named = _have_several_models(rows)
    for row in sorted(rows, key=lambda row: -row.confidence):
        label = row.prediction.label if row.prediction.probabilities else "all slides"
        gallery = galleries.setdefault(label, [])
        if len(gallery) < PATCHES_PER_CLASS:
            gallery += _top_patch(row, named=named)
    return {label: pictures for label, pictures in sorted(galleries.items()) if pictures}


def confident_errors(rows: Sequence[Row]) -> list[Picture]:
    """Return the slides of the most confident wrong predictions, with the visited patches."""
    wrong = sorted((row for row in rows if row.wrong), key=lambda row: -row.confidence)
    named = _have_several_models(rows)
    return [picture for row in wrong[:ERRORS] for picture in _slide_with_patches(row, named=named)]


def _top_patch(row: Row, *, named: bool) -> Iterator[Picture]:
    """Yield the top patch of a prediction, with the name of its model if `named`."""
    with _picture_border(row):
        record = read_prediction(row.prediction.path)
        for top in record.top_regions(1):
            score = f"{top.score_kind.replace('_', ' ')} {top.score:.2g}"
            if top.score_kind == "class_probability":
                score = f"{named_number(record.label, f'{top.score:.2f}')} after this patch"
            with open_listed(row.slide) as slide:
                pixels = slide.read(Box(top.x, top.y, top.width, top.height), top.mpp)
            lines = [score, f"{record.magnification_at(top.mpp):g}x"]
            lines += [row.prediction.model] if named else []
            yield Picture(jpeg_url(pixels, PATCH_PX), row.slide.id, tuple(lines))


def _slide_with_patches(row: Row, *, named: bool) -> Iterator[Picture]:
    """Yield a slide with its visited patches, and the name of the model if `named`."""
    with _picture_border(row):
        record = read_prediction(row.prediction.path)
        with open_listed(row.slide) as slide:
            width, height = slide.size
            scale = max(1.0, max(width, height) / SLIDE_PX)
            pixels = slide.read(Box(0, 0, width, height), slide.mpp * scale)
        lines = [
            f"true {row.slide.truth.label}, predicted {row.prediction.label} "
            f"({row.confidence:.2f})",
            *([row.prediction.model] if named else []),
            row.prediction.bill,
        ]
        overlay = patch_overlay(record)
        yield Picture(jpeg_url(pixels, SLIDE_PX), row.slide.id, tuple(lines), overlay)


def _have_several_models(rows: Sequence[Row]) -> bool:
    return len({row.prediction.model for row in rows}) > 1


@contextmanager
def _picture_border(row: Row) -> Iterator[None]:
    """Log whatever keeps a block from making the picture of a slide, and continue."""
    with catch_failure(row.slide.id) as attempt:
        yield
    if attempt.reason is not None:
        logger.warning("%s The report has no picture of it.", attempt.reason)
