"""The panel of a map that shows the whole slide, with the tissue that was not visited."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from parfocal.explain import map_layout
from parfocal.explain.bill import percent_of_tissue
from parfocal.explain.map_layout import HEADER, Color, Layout
from parfocal.explain.record import PredictionRecord
from parfocal.grid.reach import Run

NOT_VISITED: Color = (86, 106, 140)
OUT_OF_REACH: Color = (240, 228, 66)
STRENGTH = {NOT_VISITED: 0.5, OUT_OF_REACH: 0.8}  # of a mark over the tissue


def whole_slide_panel(
    record: PredictionRecord, layout: Layout, pixels: UInt8[np.ndarray, "h w 3"]
) -> Image.Image:
    """Draw the whole slide, small, and mark what was not visited and what is out of reach.

    Tissue was visited if a patch of the highest magnification there was read. A record of version 1
    does not say where the tissue is, so nothing is marked.

    Args:
        record: a prediction.
        layout: layout of the map, whose panel the slide is fitted into.
        pixels: pixels of the whole slide, of any size.
    """
    whole = _fit(record.slide.size, layout)
    picture = np.array(Image.fromarray(pixels).resize(whole.panel, Image.Resampling.LANCZOS))
    if record.reach is not None:
        squares = record.reach.squares
        reachable = _mask(whole, _boxes(squares.reachable, squares.side))
        lost = _mask(whole, _boxes(squares.out_of_reach, squares.side))
        not_visited = reachable & ~_mask(whole, _visited_boxes(record))
        for color, mask in ((NOT_VISITED, not_visited), (OUT_OF_REACH, lost)):
            tint = STRENGTH[color] * np.array(color)
            picture[mask] = np.rint(picture[mask] * (1 - STRENGTH[color]) + tint)
    canvas = np.full((layout.panel[1], layout.panel[0], 3), 255, dtype=np.uint8)
    canvas[: whole.panel[1], : whole.panel[0]] = picture
    panel, draw = map_layout.titled_panel(layout, canvas, "whole slide")
    right, bottom = whole.panel
    draw.rectangle((0, HEADER, right - 1, HEADER + bottom - 1), outline=map_layout.FAINT)
    footer = replace(layout, scale=whole.scale)
    _, top = map_layout.scale_bar(draw, footer, record.slide.mpp)
    if record.reach is not None:
        position = map_layout.key(draw, (0, top + 36), NOT_VISITED, "not visited")
        text = percent_of_tissue(record.reach.unreachable)
        map_layout.key(draw, position, OUT_OF_REACH, text)
    return panel


def _fit(size: tuple[int, int], layout: Layout) -> Layout:
    """Return the layout of the whole slide inside a panel, in the panel's top-left corner."""
    scale = min(layout.panel[0] / size[0], layout.panel[1] / size[1])
    panel = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return Layout(panel, (0.0, 0.0), (panel[0] / size[0], panel[1] / size[1]), layout.columns)


def _boxes(runs: Sequence[Run], side: float) -> list[tuple[float, float, float, float]]:
    """Return the left, top, right and bottom edges of runs of squares, in level-0 pixels."""
    return [
        (column * side, row * side, (column + count) * side, (row + 1) * side)
        for row, column, count in runs
    ]


def _visited_boxes(record: PredictionRecord) -> list[tuple[float, float, float, float]]:
    """Return the edges of the patches read at the highest magnification, in level-0 pixels."""
    return [
        (region.x, region.y, region.x + region.width, region.y + region.height)
        for region in record.regions_at(len(record.mpps) - 1)
        if region.visited
    ]


def _mask(
    layout: Layout, boxes: Sequence[tuple[float, float, float, float]]
) -> Bool[np.ndarray, "h w"]:
    """Return which pixels of a picture some boxes cover; each covers a pixel at least."""
    mask = np.zeros((layout.panel[1], layout.panel[0]), dtype=bool)
    across, down = layout.scale
    for left, top, right, bottom in boxes:
        x, y = round(left * across), round(top * down)
        mask[y : max(y + 1, round(bottom * down)), x : max(x + 1, round(right * across))] = True
    return mask
