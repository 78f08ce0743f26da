"""Draw all pictures of a prediction from its record and the slide."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from parfocal.explain.heatmap import draw_map, visible_box
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import has_class_probabilities
from parfocal.explain.zoom_tree import draw_gray_filter, draw_leaves, draw_zoom_tree
from parfocal.slide.slide import Box, Slide

THUMBNAIL_PX = 1024  # longer side
DETAILS = 6  # patches drawn below a map

Pixels = UInt8[np.ndarray, "_ _ 3"]
Ring = Float[np.ndarray, "_ 2"]


def picture_files(record: PredictionRecord, folder: Path) -> tuple[Path, ...]:
    """Return the files that `draw_pictures` writes for a prediction."""
    name = record.slide.id
    if not has_class_probabilities(record.regions):
        return (folder / f"{name}.png",)
    return tuple(folder / f"{name}{part}.png" for part in ("", "-leaves", "-filter"))


def draw_pictures(
    record: PredictionRecord,
    slide: Slide,
    folder: Path,
    *,
    gray_spread: int = 0,
    lesions: Sequence[Ring] = (),
) -> None:
    """Draw every picture that a prediction has.

    A prediction whose squares form a tree has `<id>.png` (the tree), `<id>-leaves.png` and
    `<id>-filter.png` (the gray filter). Any other has `<id>.png`, a map of its scores.

    Args:
        record: a prediction.
        slide: the slide.
        folder: folder to write to.
        gray_spread: threshold of the model's gray filter; 0 for no filter. Used for a tree only.
        lesions: lesion outlines in level-0 pixels. Drawn on the leaves of a tree only.

    Raises:
        SlideError: the slide cannot be read.
    """
    path = folder / f"{record.slide.id}.png"
    if not has_class_probabilities(record.regions):
        thumbnail, details = _read_map_pixels(record, slide)
        whole = _read_thumbnail(slide, Box(0, 0, *slide.size))
        draw_map(record, thumbnail, path, whole=whole, details=details)
        return
    draw_zoom_tree(record, slide, path, gray_spread=gray_spread)
    draw_leaves(record, slide, folder / f"{record.slide.id}-leaves.png", lesions=lesions)
    draw_gray_filter([slide], folder / f"{record.slide.id}-filter.png", gray_spread=gray_spread)


def _read_map_pixels(record: PredictionRecord, slide: Slide) -> tuple[Pixels, dict[str, Pixels]]:
    """Read the visible part of the slide as a thumbnail, and the patches that counted most."""
    thumbnail = _read_thumbnail(slide, visible_box(record))
    details = {
        region.id: slide.read(Box(region.x, region.y, region.width, region.height), region.mpp)
        for region in record.top_regions(DETAILS)
    }
    return thumbnail, details


def _read_thumbnail(slide: Slide, part: Box) -> Pixels:
    shrink = max(1.0, max(part.width, part.height) / THUMBNAIL_PX)
    return slide.read(part, slide.mpp * shrink)
