"""Pictures of how a model magnified squares of squares: its way down, its leaves, its gray filter.

After figures 3, 4 and 5 of Dimitriou & Arandjelović, "Magnifying Networks for Images with Billions
of Pixels", arXiv 2112.06121. Drawn from a prediction's record and the slide.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from parfocal.explain.map_layout import GAP, INK, MARGIN, QUIET, SMALL, TEXT, Color, fit
from parfocal.explain.record import PredictionRecord, Region
from parfocal.files import whole_file
from parfocal.slide.slide import Box, Slide

TILE_PX, LINE_PX = 180, 22  # of a picture, and of the line below it
ACROSS = 6  # leaves beside each other
CHOSEN: Color = (230, 40, 30)  # red, as in the paper
LESION: Color = (0, 170, 120)  # green: apart from red also to the color-blind, and from H&E

Ring = Float[np.ndarray, "_ 2"]


def draw_descent(
    record: PredictionRecord, slide: Slide, path: Path, *, gray_spread: int = 15
) -> None:
    """Draw each picture a model magnified with the squares it chose, and these beside it, as PNG.

    Under a leaf stands the probability of the predicted label after it was read.

    Args:
        record: a prediction of squares within squares.
        slide: to read from.
        path: of the PNG; written whole or not at all.
        gray_spread: of the model's gray filter; 0 for none.

    Raises:
        ValueError: the record is of another kind of model.
        SlideError: the slide cannot be read.
    """
    _refuse_others(record)
    rows = []
    for region in record.regions:
        chosen = [each for each in record.regions if each.parent == region.id]
        if chosen:
            tiles = [_tile(slide, each, _said(each), gray_spread) for each in chosen]
            around = f"{region.mpp:.3g} um/px"
            rows.append([_tile(slide, region, around, gray_spread, squares=chosen), *tiles])
    _save(path, _titled(record), rows)


def draw_leaves(
    record: PredictionRecord, slide: Slide, path: Path, *, lesions: Sequence[Ring] = ()
) -> None:
    """Draw a slide's leaves in the order they were read, as a PNG.

    Under each stands the probability of the predicted label after it.

    Args:
        record: a prediction of squares within squares.
        slide: to read from.
        path: of the PNG; written whole or not at all.
        lesions: outlines of known ones, in level-0 pixels, drawn where a leaf meets them.

    Raises:
        ValueError: the record is of another kind of model.
        SlideError: the slide cannot be read.
    """
    _refuse_others(record)
    tiles = [
        _tile(slide, leaf, _said(leaf), 0, lesions=lesions)
        for leaf in record.regions
        if leaf.score_kind == "running"
    ]
    rows = [tiles[first : first + ACROSS] for first in range(0, len(tiles), ACROSS)]
    _save(path, _titled(record), rows)


def draw_filtered(slides: Sequence[Slide], path: Path, *, gray_spread: int = 15) -> None:
    """Draw slides as they are, and below each what the gray filter leaves of it, as a PNG.

    Raises:
        SlideError: a slide cannot be read.
    """
    rows: list[list[Image.Image]] = [[], []]
    for slide in slides:
        width, height = slide.size
        side = max(width, height)
        whole = Box((width - side) / 2, (height - side) / 2, side, side)
        pixels = slide.resample(whole, (TILE_PX, TILE_PX))
        rows[0].append(_labeled(Image.fromarray(pixels), slide.id))
        rows[1].append(_labeled(Image.fromarray(without_gray(pixels, gray_spread)), ""))
    _save(path, f"gray filter, {gray_spread} of 255", rows)


def without_gray(pixels: UInt8[np.ndarray, "h w 3"], spread: int) -> UInt8[np.ndarray, "h w 3"]:
    """Make pixels black whose red, green and blue lie within less than `spread`."""
    colored = np.ptp(pixels, axis=2, keepdims=True) >= spread
    left: UInt8[np.ndarray, "h w 3"] = np.where(colored, pixels, 0).astype(np.uint8)
    return left


def has_leaves(record: PredictionRecord) -> bool:
    """Tell whether a prediction is one of squares within squares."""
    return any(region.score_kind == "running" for region in record.regions)


def _refuse_others(record: PredictionRecord) -> None:
    if not has_leaves(record):
        raise ValueError(
            f"{record.slide.id}: model {record.model.name} did not magnify squares of squares, so "
            "there is no such picture of it; draw its map."
        )


def _tile(
    slide: Slide,
    region: Region,
    text: str,
    gray_spread: int,
    *,
    squares: Sequence[Region] = (),
    lesions: Sequence[Ring] = (),
) -> Image.Image:
    """Show a region as the model saw it, with squares and lesions drawn in."""
    box = Box(region.x, region.y, region.width, region.height)
    pixels = without_gray(slide.resample(box, (TILE_PX, TILE_PX)), gray_spread)
    picture = Image.fromarray(pixels)
    draw, scale = ImageDraw.Draw(picture), TILE_PX / region.width
    for square in squares:
        left, top = (square.x - region.x) * scale, (square.y - region.y) * scale
        side = square.width * scale
        draw.rectangle((left, top, left + side, top + side), outline=CHOSEN, width=2)
    for ring in lesions:
        at = (ring - (region.x, region.y)) * scale
        draw.line([(x, y) for x, y in at.tolist()], LESION, width=2)
    return _labeled(picture, text)


def _labeled(picture: Image.Image, text: str) -> Image.Image:
    tile = Image.new("RGB", (TILE_PX, TILE_PX + LINE_PX), "white")
    tile.paste(picture, (0, 0))
    line = fit(text, SMALL, TILE_PX)
    ImageDraw.Draw(tile).text((0, TILE_PX + 3), line, QUIET, ImageFont.load_default(SMALL))
    return tile


def _said(region: Region) -> str:
    seen = f"{region.mpp:.3g} um/px"
    return f"p {region.score:.2f}, {seen}" if region.score_kind == "running" else seen


def _titled(record: PredictionRecord) -> str:
    chance = record.probabilities[record.label]
    return f"{record.slide.id}: {record.label} {chance:.2f}, {record.stop_reason}"


def _save(path: Path, title: str, rows: Sequence[Sequence[Image.Image]]) -> None:
    across, down = TILE_PX + GAP // 2, TILE_PX + LINE_PX + GAP // 4
    width = max(len(row) for row in rows) * across + 2 * MARGIN
    sheet = Image.new("RGB", (width, len(rows) * down + 2 * MARGIN + 30), "white")
    line = fit(title, TEXT, width - 2 * MARGIN)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN - 8), line, INK, ImageFont.load_default(TEXT))
    for number, row in enumerate(rows):
        for place, tile in enumerate(row):
            sheet.paste(tile, (MARGIN + place * across, MARGIN + 30 + number * down))
    with whole_file(path) as part:
        sheet.save(part, format="PNG", compress_level=6)
