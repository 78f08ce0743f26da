from dataclasses import replace

import numpy as np

from parfocal.cost import CostMeter
from parfocal.explain.map_layout import HEADER, Layout
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import ModelFacts, Region, SlideFacts
from parfocal.explain.whole_slide import NOT_VISITED, OUT_OF_REACH, whole_slide_panel
from parfocal.grid import Reach, Squares
from parfocal.slide.slide import Box

PINK = np.full((50, 100, 3), (230, 150, 190), dtype=np.uint8)
LAYOUT = Layout.fitting(Box(0, 0, 400, 400), 3)


def record(reach: Reach | None) -> PredictionRecord:
    """Return a prediction for a slide of 2000 x 1000 that visited one square of 100."""
    region = Region(
        *("1-0", 1, 300.0, 200.0, 100.0, 100.0, 1.0, 1.0, "attention", None),
        selected=False,
        order=1,
    )
    return PredictionRecord(
        slide=SlideFacts("a", None, "0" * 32, (2000, 1000), 1.0, "given"),
        model=ModelFacts("zoommil", "0" * 64, None, None, (2.5, 10.0), 100, "0.1"),
        probabilities={"normal": 0.25, "tumor": 0.75},
        stop_reason="done",
        mpps=(4.0, 1.0),
        regions=(replace(region, id="0-0", step=0, width=400.0, height=400.0), region),
        cost=CostMeter().total(),
        reach=reach,
    )


def color_at(panel, x: float, y: float) -> tuple[int, int, int]:
    """Return the color of the panel at a level-0 position."""
    scale = LAYOUT.panel[0] / 2000
    return panel.getpixel((round(x * scale), HEADER + round(y * scale)))


def blend(color, strength):
    return tuple(np.rint(np.array(PINK[0, 0]) * (1 - strength) + strength * np.array(color)))


def test_tissue_that_was_not_visited_and_tissue_out_of_reach_are_marked():
    squares = Squares(100.0, ((2, 3, 2),), ((7, 12, 3),))
    panel = whole_slide_panel(record(Reach(0.6, 0.0, True, squares)), LAYOUT, PINK)
    assert color_at(panel, 350, 250) == tuple(PINK[0, 0])  # visited
    assert color_at(panel, 450, 250) == blend(NOT_VISITED, 0.5)
    for x in (1250, 1350, 1450):
        assert color_at(panel, x, 750) == blend(OUT_OF_REACH, 0.8)
    assert color_at(panel, 1550, 750) == tuple(PINK[0, 0])  # no tissue


def test_the_whole_slide_is_shown_even_if_all_patches_lie_in_a_corner():
    panel = whole_slide_panel(record(None), LAYOUT, PINK)
    assert color_at(panel, 1990, 990) == tuple(PINK[0, 0])
    assert color_at(panel, 1000, 1050) == (255, 255, 255)  # below the slide


def test_a_record_without_reach_has_no_marks():
    panel = whole_slide_panel(record(None), LAYOUT, PINK)
    assert {color_at(panel, x, 500) for x in range(20, 1990, 40)} == {tuple(PINK[0, 0])}


def test_a_square_narrower_than_a_pixel_is_marked():
    squares = Squares(0.5, (), ((1500, 3000, 1),))
    panel = whole_slide_panel(record(Reach(0.1, 0.0, True, squares)), LAYOUT, PINK)
    pixels = np.array(panel)[HEADER : HEADER + LAYOUT.panel[1]]
    assert (pixels == blend(OUT_OF_REACH, 0.8)).all(axis=2).sum() == 1
