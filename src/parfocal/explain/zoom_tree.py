"""Pictures of a model that repeatedly zooms into squares: the tree, its leaves, the gray filter.

After figures 3, 4 and 5 of Dimitriou & Arandjelović, "Magnifying Networks for Images with Billions
of Pixels", arXiv 2112.06121. Drawn from the record of a prediction and the slide.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from parfocal.explain.map_layout import GAP, INK, MARGIN, QUIET, SMALL, TEXT, Color, shorten
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import Region, has_class_probabilities
from parfocal.files import whole_file
from parfocal.slide.slide import Box, Slide

TILE_PX, LINE_PX = 180, 22  # side of a picture, height of the text line below it
COLUMNS = 6  # leaves per row
SELECTED: Color = (230, 40, 30)  # red, as in the paper
LESION: Color = (0, 170, 120)  # green: unlike H&E, and unlike red also for the color-blind

Ring = Float[np.ndarray, "_ 2"]


def draw_zoom_tree(
    record: PredictionRecord, slide: Slide, path: Path, *, gray_spread: int = 15
) -> None:
    """Draw each square that the model zoomed into, with the selected squares beside it, as a PNG.

    Below a leaf stands the probability of the predicted class after the leaf was read.

    Args:
        record: a prediction of a model that zooms into squares.
        slide: the slide.
        path: the PNG to write; written completely or not at all.
        gray_spread: threshold of the model's gray filter; 0 for no filter.

    Raises:
        ValueError: the prediction has no tree of squares.
        SlideError: the slide cannot be read.
    """
    _check_tree(record)
    rows = []
    for region in record.regions:
        children = [other for other in record.regions if other.parent == region.id]
        if children:
            tiles = [_tile(slide, child, _caption(child), gray_spread) for child in children]
            resolution = f"{region.mpp:.3g} um/px"
            rows.append([_tile(slide, region, resolution, gray_spread, squares=children), *tiles])
    _save(path, _title(record), rows)


def draw_leaves(
    record: PredictionRecord, slide: Slide, path: Path, *, lesions: Sequence[Ring] = ()
) -> None:
    """Draw the leaves in the order in which they were read, as a PNG.

    Below each stands the probability of the predicted class after it was read.

    Args:
        record: a prediction of a model that zooms into squares.
        slide: the slide.
        path: the PNG to write; written completely or not at all.
        lesions: lesion outlines in level-0 pixels, drawn on the leaves that they cross.

    Raises:
        ValueError: the prediction has no tree of squares.
        SlideError: the slide cannot be read.
    """
    _check_tree(record)
    tiles = [
        _tile(slide, leaf, _caption(leaf), 0, lesions=lesions)
        for leaf in record.regions
        if has_class_probabilities([leaf])
    ]
    rows = [tiles[first : first + COLUMNS] for first in range(0, len(tiles), COLUMNS)]
    _save(path, _title(record), rows)


def draw_gray_filter(slides: Sequence[Slide], path: Path, *, gray_spread: int = 15) -> None:
    """Draw slides before (top) and after (bottom) the gray filter, as a PNG.

    Raises:
        SlideError: a slide cannot be read.
    """
    rows: list[list[Image.Image]] = [[], []]
    for slide in slides:
        width, height = slide.size
        side = max(width, height)
        square = Box((width - side) / 2, (height - side) / 2, side, side)
        pixels = slide.resample(square, (TILE_PX, TILE_PX))
        rows[0].append(_labeled(Image.fromarray(pixels), slide.id))
        rows[1].append(_labeled(Image.fromarray(without_gray(pixels, gray_spread)), ""))
    _save(path, f"gray filter, threshold {gray_spread} of 255", rows)


def without_gray(pixels: UInt8[np.ndarray, "h w 3"], spread: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels with black where red, green and blue differ by less than `spread`."""
    colored = np.ptp(pixels, axis=2, keepdims=True) >= spread
    filtered: UInt8[np.ndarray, "h w 3"] = np.where(colored, pixels, 0).astype(np.uint8)
    return filtered


def _check_tree(record: PredictionRecord) -> None:
    if not has_class_probabilities(record.regions):
        raise ValueError(
            f"{record.slide.id}: model {record.model.name} does not zoom into squares, so there is "
            "no tree to draw; draw its map with draw_map."
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
    """Draw a region as the model reads it, with squares and lesion outlines."""
    box = Box(region.x, region.y, region.width, region.height)
    pixels = without_gray(slide.resample(box, (TILE_PX, TILE_PX)), gray_spread)
    picture = Image.fromarray(pixels)
    draw, scale = ImageDraw.Draw(picture), TILE_PX / region.width
    for square in squares:
        left, top = (square.x - region.x) * scale, (square.y - region.y) * scale
        side = square.width * scale
        draw.rectangle((left, top, left + side, top + side), outline=SELECTED, width=2)
    for ring in lesions:
        points = (ring - (region.x, region.y)) * scale
        draw.line([(x, y) for x, y in points.tolist()], LESION, width=2)
    return _labeled(picture, text)


def _labeled(picture: Image.Image, text: str) -> Image.Image:
    tile = Image.new("RGB", (TILE_PX, TILE_PX + LINE_PX), "white")
    tile.paste(picture, (0, 0))
    line = shorten(text, SMALL, TILE_PX)
    ImageDraw.Draw(tile).text((0, TILE_PX + 3), line, QUIET, ImageFont.load_default(SMALL))
    return tile


def _caption(region: Region) -> str:
    resolution = f"{region.mpp:.3g} um/px"
    return (
        f"p {region.score:.2f}, {resolution}" if has_class_probabilities([region]) else resolution
    )


def _title(record: PredictionRecord) -> str:
    return f"{record.slide.id}: {record.answer}; {record.stop_reason}"


def _save(path: Path, title: str, rows: Sequence[Sequence[Image.Image]]) -> None:
    column_width, row_height = TILE_PX + GAP // 2, TILE_PX + LINE_PX + GAP // 4
    width = max(len(row) for row in rows) * column_width + 2 * MARGIN
    sheet = Image.new("RGB", (width, len(rows) * row_height + 2 * MARGIN + 30), "white")
    line = shorten(title, TEXT, width - 2 * MARGIN)
    ImageDraw.Draw(sheet).text((MARGIN, MARGIN - 8), line, INK, ImageFont.load_default(TEXT))
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            sheet.paste(tile, (MARGIN + j * column_width, MARGIN + 30 + i * row_height))
    with whole_file(path) as part:
        sheet.save(part, format="PNG", compress_level=6)
