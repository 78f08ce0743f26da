"""Pictures of a tree of squares, drawn from a slide of two colors and read back."""

import numpy as np
import pytest
from PIL import Image

from parfocal.cost import CostMeter
from parfocal.explain.map_layout import GAP, MARGIN
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import ModelFacts, Region, SlideFacts
from parfocal.explain.zoom_tree import (
    LESION,
    LINE_PX,
    SELECTED,
    TILE_PX,
    draw_gray_filter,
    draw_leaves,
    draw_zoom_tree,
)
from parfocal.slide.slide import slide_from_array

PINK, GRAY = (220, 120, 180), (200, 200, 200)
SIDE = 720


@pytest.fixture
def slide():
    pixels = np.full((SIDE, SIDE, 3), PINK, dtype=np.uint8)
    pixels[: SIDE // 2] = GRAY
    return slide_from_array(pixels, mpp=1.0, name="painted")


def region(name, x, y, side, *, parent=None, kind="attention", score=1.0) -> Region:
    return Region(
        **{"id": name, "step": int(name[0]), "x": x, "y": y, "width": side, "height": side},
        **{"mpp": side / 56, "score": score, "score_kind": kind, "parent": parent},
        **{"selected": kind == "attention", "order": 0},
    )


@pytest.fixture
def record():
    regions = (
        region("0-0", 0, 0, SIDE),
        region("1-0", 180, 360, 360, parent="0-0", kind="class_probability", score=0.25),
        region("1-1", 0, 0, 360, parent="0-0", kind="class_probability", score=0.75),
    )
    return PredictionRecord(
        slide=SlideFacts("painted", None, "0" * 32, (SIDE, SIDE), 1.0, "given"),
        model=ModelFacts("magnet", "0" * 64, None, None, (10.0,), 224, "0.1"),
        probabilities={"normal": 0.25, "tumor": 0.75},
        stop_reason="every leaf was read",
        mpps=(SIDE / 56, 360 / 56),
        regions=regions,
        cost=CostMeter().total(),
    )


def tile(path, row: int, place: int) -> np.ndarray:
    """Return the pixels of a tile, without the text below it."""
    left, top = MARGIN + place * (TILE_PX + GAP // 2), MARGIN + 30
    top += row * (TILE_PX + LINE_PX + GAP // 4)
    return np.asarray(Image.open(path))[top : top + TILE_PX, left : left + TILE_PX]


def test_a_square_is_drawn_with_its_children_outlined_and_beside_it(slide, record, tmp_path):
    draw_zoom_tree(record, slide, tmp_path / "descent.png", gray_spread=0)
    whole = tile(tmp_path / "descent.png", 0, 0)
    assert tuple(whole[135, 45]) == SELECTED  # left edge of the first child
    assert tuple(whole[135, 90]) == PINK
    assert (tile(tmp_path / "descent.png", 0, 1) == PINK).all()
    assert (tile(tmp_path / "descent.png", 0, 2) == GRAY).all()


def test_the_tree_is_drawn_after_the_gray_filter(slide, record, tmp_path):
    draw_zoom_tree(record, slide, tmp_path / "descent.png")
    assert (tile(tmp_path / "descent.png", 0, 2) == 0).all()


def test_leaves_are_drawn_in_order_with_lesion_outlines(slide, record, tmp_path):
    ring = np.array([(200, 400), (300, 400), (300, 500), (200, 400)], dtype=float)
    draw_leaves(record, slide, tmp_path / "leaves.png", lesions=[ring])
    first, second = (tile(tmp_path / "leaves.png", 0, place) for place in range(2))
    assert tuple(first[20, 35]) == LESION  # (250, 400) of 360 pixels from (180, 360)
    assert not (second == LESION).all(axis=2).any()


def test_slides_are_drawn_before_and_after_the_gray_filter(slide, tmp_path):
    draw_gray_filter([slide, slide], tmp_path / "filter.png")
    before, after = (tile(tmp_path / "filter.png", row, 1) for row in range(2))
    assert (before[:85] == GRAY).all()
    assert (after[:85] == 0).all()
    assert (after[95:] == PINK).all()


def test_a_prediction_without_a_tree_is_refused(slide, record, tmp_path):
    first = PredictionRecord(**{**vars(record), "regions": record.regions[:1]})
    for draw in (draw_zoom_tree, draw_leaves):
        with pytest.raises(ValueError, match="painted: model magnet does not zoom into squares"):
            draw(first, slide, tmp_path / "none.png")
