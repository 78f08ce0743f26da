"""The pictures of a slide on the page of a patient: where the model looked, and the top patches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image, ImageDraw

from parfocal.explain.inline_images import SQUARE, ZOOMED_STYLE, jpeg_url
from parfocal.explain.library import ListedSlide
from parfocal.explain.open_listed import open_listed
from parfocal.explain.patients.patient import PatientSlide
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import Region, has_class_probabilities
from parfocal.printable import named_number
from parfocal.slide.failure import catch_failure
from parfocal.slide.slide import Box, Slide

MAP_PX, PATCH_PX = 1000, 256  # longer sides; both print sharply at their size on paper
TOP_PATCHES = 4
VISITED, OUT_OF_REACH = (0, 114, 178), (240, 228, 66)
WEAKEST, STRONGEST = 40, 170  # opacity, 0 to 255, of patches by their score
LEAST_SHARE = 0.01  # of the highest score, for a patch to be shown as one that counted
NUMBER_SIZE = 0.035  # of the longer side of the slide


@dataclass(frozen=True)
class TopPatch:
    """One of the patches that counted most.

    Args:
        source: data URL of its pixels.
        text: magnification and score.
    """

    source: str
    text: str


@dataclass(frozen=True)
class SlidePictures:
    """The pictures of a slide.

    Args:
        source: data URL of the slide with the visited patches; None if it could not be read.
        overlay: SVG over it: the patches that were zoomed into, and the numbers of the top ones.
        top: the patches of the highest magnification that counted most, best first.
        problem: why there is no picture; None if there is one.
    """

    source: str | None = None
    overlay: Markup | str = ""
    top: tuple[TopPatch, ...] = ()
    problem: str | None = None


def draw_slide(slide: PatientSlide) -> SlidePictures:
    """Draw the pictures of a slide; if its file cannot be read, return the reason.

    Args:
        slide: a slide with its prediction.
    """
    with catch_failure(slide.listed.id) as attempt:
        return _draw(slide.listed, slide.record)
    return SlidePictures(problem=attempt.reason)


def _draw(listed: ListedSlide, record: PredictionRecord) -> SlidePictures:
    top = _top_regions(record)
    with open_listed(listed) as slide:
        width, height = slide.size
        scale = max(1.0, max(width, height) / MAP_PX)
        pixels = slide.read(Box(0, 0, width, height), slide.mpp * scale)
        patches = tuple(_top_patches(slide, record, top))
    return SlidePictures(jpeg_url(_shaded(pixels, record), MAP_PX), _overlay(record, top), patches)


def _top_regions(record: PredictionRecord) -> list[Region]:
    """Return the regions that counted most, without those that hardly counted beside the first."""
    top = record.top_regions(TOP_PATCHES)
    if has_class_probabilities(top):
        return top
    return [region for region in top if region.score >= LEAST_SHARE * top[0].score]


def _top_patches(slide: Slide, record: PredictionRecord, top: list[Region]) -> Iterator[TopPatch]:
    for region in top:
        pixels = slide.read(Box(region.x, region.y, region.width, region.height), region.mpp)
        score = f"{region.score_kind.replace('_', ' ')} {region.score:.2g}"
        if region.score_kind == "class_probability":
            score = f"{named_number(record.label, f'{region.score:.2f}')} after it"
        magnification = record.magnification_at(region.mpp)
        yield TopPatch(jpeg_url(pixels, PATCH_PX), f"{magnification:g}x, {score}")


def _shaded(
    pixels: UInt8[np.ndarray, "h w 3"], record: PredictionRecord
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture of the slide with the visited patches, darker the more they counted."""
    picture = Image.fromarray(pixels).convert("RGBA")
    layer = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(layer)
    across = picture.width / record.slide.size[0]
    down = picture.height / record.slide.size[1]
    if record.reach is not None:
        side = record.reach.squares.side
        for row, column, count in record.reach.squares.out_of_reach:
            box = column * side, row * side, (column + count) * side, (row + 1) * side
            _fill(draw, box, (across, down), (*OUT_OF_REACH, STRONGEST))
    visited = [r for r in record.regions_at(len(record.mpps) - 1) if r.visited]
    for region, strength in zip(visited, _strengths(visited), strict=True):
        box = region.x, region.y, region.x + region.width, region.y + region.height
        _fill(draw, box, (across, down), (*VISITED, strength))
    return np.asarray(Image.alpha_composite(picture, layer).convert("RGB"))


def _fill(
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    scale: tuple[float, float],
    color: tuple[int, int, int, int],
) -> None:
    """Fill a box in level-0 pixels, by one pixel of the picture at least."""
    left, top = round(box[0] * scale[0]), round(box[1] * scale[1])
    right, bottom = round(box[2] * scale[0]), round(box[3] * scale[1])
    draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), fill=color)


def _strengths(regions: list[Region]) -> list[int]:
    """Return the opacity of regions by their scores; of leaves the same for all."""
    scores = [region.score for region in regions]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    if high <= low or has_class_probabilities(regions):
        return [(WEAKEST + STRONGEST) // 2] * len(regions)
    return [
        round(WEAKEST + (STRONGEST - WEAKEST) * (score - low) / (high - low)) for score in scores
    ]


def _overlay(record: PredictionRecord, top: list[Region]) -> Markup:
    """Return an SVG of the patches that were zoomed into, with numbers at the top patches."""
    width, height = record.slide.size
    size = NUMBER_SIZE * max(width, height)
    zoomed = [
        SQUARE.format(region.x, region.y, region.width, region.height, *ZOOMED_STYLE)
        for region in record.regions
        if region.selected and region.visited
    ]
    number = Markup('<text x="{:g}" y="{:g}" font-size="{:g}" stroke-width="{:g}">{}</text>')
    numbers = [
        number.format(
            region.x + region.width / 2, region.y + region.height / 2, size, size / 6, place
        )
        for place, region in enumerate(top, start=1)
    ]
    return Markup('<svg viewBox="0 0 {} {}" fill="none">{}</svg>').format(
        width, height, Markup().join([*zoomed, *numbers])
    )
