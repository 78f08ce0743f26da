from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from parfocal.cost import Cost, ExhaustiveCost
from parfocal.explain.heatmap import SELECTED, STEP_COLORS, draw_map, visible_box
from parfocal.explain.map_layout import (
    HEADER,
    LINE,
    MARGIN,
    TEXT,
    Layout,
    scale_colors,
    shorten,
    wrap,
)
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import ModelFacts, Region, SlideFacts
from parfocal.slide.slide import Box


def region(step, column, row, side, score, *, selected=False):
    return Region(
        id=f"{step}-{column}-{row}",
        step=step,
        x=column * side,
        y=row * side,
        width=side,
        height=side,
        mpp=(4.0, 2.0)[step],
        score=score,
        score_kind="attention",
        parent=None,
        selected=selected,
        order=0,
    )


REGIONS = (
    region(0, 0, 0, 1000.0, 0.1),
    region(0, 1, 0, 1000.0, 0.2),
    region(0, 0, 1, 1000.0, 0.3),
    region(0, 1, 1, 1000.0, 0.4, selected=True),
    region(1, 2, 2, 500.0, 0.7),
    region(1, 3, 2, 500.0, 0.2),
    region(1, 2, 3, 500.0, 0.1),
    region(1, 3, 3, 500.0, 0.0),
)


def record(size=(4000, 4000), regions=REGIONS):
    """Return a prediction with four patches at 2.5x, of which one is zoomed into."""
    return PredictionRecord(
        slide=SlideFacts("slide-7", None, "0" * 32, size, 0.5, "given"),
        model=ModelFacts("zoommil", "0" * 64, None, None, (2.5, 5.0), 256, "0.1"),
        probabilities={"benign": 0.25, "cancer": 0.75},
        stop_reason="every magnification was visited",
        mpps=(4.0, 2.0),
        regions=tuple(regions),
        cost=Cost((4, 4), 1, None, 1, {"total": 1.0}, ExhaustiveCost(5.0, 16, 16, 2, 2)),
    )


WHITE = np.full((100, 100, 3), 255, dtype=np.uint8)


class Drawn:
    """A drawn map with the positions of its panels."""

    def __init__(self, path, record, thumbnail=WHITE, **more):
        draw_map(record, thumbnail, path, **more)
        self.pixels = np.array(Image.open(path))
        self.layout = Layout.fitting(visible_box(record), len(record.mpps) + 1)
        self.top = MARGIN + 60 + LINE * len(wrap(record.bill, TEXT, self.layout.width))

    def at(self, panel, x, y):
        """Return the color of a panel at a level-0 position."""
        row, column = divmod(panel, self.layout.columns)
        width, height = self.layout.cell
        x, y = x - self.layout.corner[0], y - self.layout.corner[1]
        left = MARGIN + column * (width + 28) + x * self.layout.scale[0]
        top = self.top + row * (height + 28) + HEADER + y * self.layout.scale[1]
        return tuple(self.pixels[round(top), round(left)].tolist())


def color_of(share):
    return tuple(scale_colors(np.array([float(share)]))[0].tolist())


def test_a_map_shows_the_patches_with_a_margin_within_the_slide():
    assert visible_box(record()) == Box(0, 0, 2100, 2100)
    moved = [replace(region, x=region.x + 1500, y=region.y + 1500) for region in REGIONS]
    assert visible_box(record(regions=moved)) == Box(1400, 1400, 2200, 2200)


def test_each_patch_carries_the_color_of_its_attention(tmp_path):
    drawn = Drawn(tmp_path / "map.png", record())
    for x, y, score in [(500, 500, 0.1), (1500, 500, 0.2), (500, 1500, 0.3), (1500, 1500, 0.4)]:
        assert drawn.at(1, x, y) == color_of(score)
    for x, y, score in [(1250, 1250, 0.7), (1750, 1250, 0.2), (1750, 1750, 0.0)]:
        assert drawn.at(2, x, y) == color_of(score)


def test_attention_above_four_times_uniform_is_darkest(tmp_path):
    others = [region(0, column % 8, column // 8, 500.0, 0.0) for column in range(96)]
    given = record(regions=[*REGIONS, *others])
    # 0.4 is more than four times uniform attention over 100 patches.
    assert Drawn(tmp_path / "map.png", given).at(1, 1900, 1900) == color_of(1)


def test_a_magnification_shows_only_its_own_patches(tmp_path):
    drawn = Drawn(tmp_path / "map.png", record())
    assert drawn.at(1, 1250, 1250) == drawn.at(1, 1750, 1750)
    assert drawn.at(2, 500, 500) == (255, 255, 255)


def test_only_patches_zoomed_into_are_outlined(tmp_path):
    drawn = Drawn(tmp_path / "map.png", record())
    pixel = 1 / drawn.layout.scale[0]
    assert drawn.at(1, 1000 + pixel, 1500) == SELECTED
    assert drawn.at(1, 2000 - pixel, 1500) == SELECTED
    assert drawn.at(1, 500, 1000 + pixel) == color_of(0.3)


def test_the_first_panel_shows_the_slide_with_visited_areas_outlined(tmp_path):
    pink = np.full((50, 50, 3), (230, 150, 190), dtype=np.uint8)
    drawn = Drawn(tmp_path / "map.png", record(), pink)
    pixel = 1 / drawn.layout.scale[0]
    assert drawn.at(0, 500, 500) == drawn.at(0, 2050, 2050) == (230, 150, 190)
    assert drawn.at(0, 500, 2000 - pixel) == STEP_COLORS[0]
    assert drawn.at(0, 1500, 2000 - pixel) == STEP_COLORS[1]


def test_tissue_shades_a_color_and_does_not_change_it(tmp_path):
    gray = np.full((100, 100, 3), 100, dtype=np.uint8)
    drawn = Drawn(tmp_path / "map.png", record(), gray)
    shade = 0.75 + 0.25 * 100 / 255
    expected = np.array(color_of(0.2)) * shade
    assert drawn.at(1, 1500, 500) == pytest.approx(expected, abs=0.5)


def test_a_small_patch_keeps_its_position_and_color_on_a_huge_slide(tmp_path):
    tiny = region(1, 250, 250, 256.0, 0.9)
    given = record(size=(100_000, 100_000), regions=[*REGIONS, tiny])
    drawn = Drawn(tmp_path / "map.png", given)
    assert drawn.at(2, 250.5 * 256, 250.5 * 256) == color_of(1)


def test_nearly_equal_scores_have_the_same_color(tmp_path):
    regions = [replace(each, score=0.25 + i * 1e-6) for i, each in enumerate(REGIONS)]
    drawn = Drawn(tmp_path / "map.png", record(regions=regions))
    assert drawn.at(1, 500, 500) == drawn.at(1, 1500, 1500) == color_of(0.25)


def test_sampling_probabilities_share_one_scale(tmp_path):
    scores = [0.8, *[0.0] * 3, 0.2, *[0.0] * 3]
    regions = [
        replace(each, score=score, score_kind="sampling_probability")
        for each, score in zip(REGIONS, scores, strict=True)
    ]
    drawn = Drawn(tmp_path / "map.png", record(regions=regions))
    assert drawn.at(1, 500, 500) == color_of(1)
    assert drawn.at(2, 1250, 1250) == color_of(0.25)


def test_a_magnification_without_patches_is_drawn_empty(tmp_path):
    assert Drawn(tmp_path / "map.png", record(regions=REGIONS[:4])).at(2, 1250, 1250) == (
        255,
        255,
        255,
    )


def test_the_scale_darkens_evenly():
    red, green, blue = scale_colors(np.linspace(0, 1, 50)).astype(float).T
    lightness = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    steps = np.diff(lightness)
    assert (steps < 0).all()
    assert steps.max() / steps.min() > 0.4


@pytest.mark.parametrize("size", [(100_000, 500), (500, 100_000), (3000, 2000), (90_000, 90_000)])
def test_any_shape_of_slide_fits_on_a_screen(tmp_path, size):
    drawn = Drawn(tmp_path / "map.png", record(size=size))
    height, width = drawn.pixels.shape[:2]
    assert width <= 2200
    assert height <= 1600


def test_patches_beyond_the_slide_are_cut_off(tmp_path):
    given = record(size=(1500, 1500), regions=[*REGIONS, region(1, 9, 9, 500.0, 0.1)])
    drawn = Drawn(tmp_path / "map.png", given)
    assert drawn.at(1, 1400, 500) == color_of(0.2)


def test_the_top_patches_are_drawn_in_the_order_of_their_ranks(tmp_path):
    given = record()
    pixels = {"1-3-2": np.full((256, 256, 3), 50), "1-2-2": np.full((99, 256, 3), 200)}
    details = {name: patch.astype(np.uint8) for name, patch in pixels.items()}
    with_tiles = Drawn(tmp_path / "tiles.png", given, details=details).pixels
    without = Drawn(tmp_path / "map.png", given).pixels
    assert with_tiles.shape[0] > without.shape[0]
    row = with_tiles[-MARGIN - 100]
    assert row[MARGIN + 100].tolist() == [200] * 3
    assert row[MARGIN + 228 + 100].tolist() == [50] * 3


def test_a_long_name_is_shortened_in_its_middle():
    assert shorten("a-slide", 18, 500) == "a-slide"
    shortened = shorten("start" + "x" * 500 + "finish", 18, 300)
    assert shortened.startswith("start")
    assert shortened.endswith("finish")
    assert "…" in shortened


def test_the_whole_caption_is_on_the_map_in_several_lines_if_it_is_long(tmp_path, monkeypatch):
    drawn = []
    original = ImageDraw.ImageDraw.text

    def text(self, xy, content, *rest, **more):
        drawn.append(content)
        return original(self, xy, content, *rest, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    bill = "visited 60 of 259 patches (23.2%), 25.2% of the pixels, 23.1 of 99.4 GMAC, 0.6 s, read "
    bill += (
        "0.828 of 4.33 MB (19.1%), 0.0% of the tissue out of reach; nothing to skip on this slide: "
    )
    bill += "encoding all 259 patches at 10x costs no more; the budget of 100 patches was not met; "
    bill += "more than exhaustive, because lower magnifications and finding tissue count as well"
    monkeypatch.setattr(PredictionRecord, "bill", bill)
    draw_map(record(), WHITE, tmp_path / "map.png")
    lines = [content for content in drawn if content and content in bill and len(content) > 20]
    assert len(lines) > 1
    assert " ".join(lines) == bill
    font = ImageFont.load_default(TEXT)
    width = Layout.fitting(visible_box(record()), 3).width
    assert all(font.getlength(line) <= width for line in lines)


def test_the_same_record_gives_the_same_bytes(tmp_path):
    for name in ("one.png", "two.png"):
        draw_map(record(), WHITE, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_map_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
    def fail(self, *args, **kwargs):
        args[0].write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        draw_map(record(), WHITE, tmp_path / "map.png")
    assert list(tmp_path.iterdir()) == []


def test_a_record_without_regions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="slide-7: the record has no regions to draw"):
        draw_map(record(regions=[]), WHITE, tmp_path / "map.png")
