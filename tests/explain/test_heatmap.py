import copy

import numpy as np
import pytest
from PIL import Image

from parfocal.explain.heatmap import CHOSEN, STEP_COLORS, draw_map, most_attended, part_shown
from parfocal.explain.map_layout import HEADER, MARGIN, Layout, colors, fit
from parfocal.slide.slide import Box


def region(step, column, row, side, score, *, selected=False):
    return {
        "id": f"{step}-{column}-{row}",
        "step": step,
        "x": column * side,
        "y": row * side,
        "width": side,
        "height": side,
        "score": score,
        "selected": selected,
    }


def record(size=(4000, 4000), **changes):
    """Four patches at a low magnification; one is zoomed into, its four children are seen."""
    regions = [
        region(0, 0, 0, 1000.0, 0.1),
        region(0, 1, 0, 1000.0, 0.2),
        region(0, 0, 1, 1000.0, 0.3),
        region(0, 1, 1, 1000.0, 0.4, selected=True),
        region(1, 2, 2, 500.0, 0.7),
        region(1, 3, 2, 500.0, 0.2),
        region(1, 2, 3, 500.0, 0.1),
        region(1, 3, 3, 500.0, 0.0),
    ]
    whole = {
        "slide": {"id": "slide-7", "size": size, "mpp": 0.5},
        "prediction": {"label": "cancer", "probabilities": {"benign": 0.25, "cancer": 0.75}},
        "steps": [
            {"mpp": 4.0, "magnification": 2.5, "patches": 4},
            {"mpp": 2.0, "magnification": 5.0, "patches": 4},
        ],
        "regions": regions,
    }
    return copy.deepcopy(whole) | changes


WHITE = np.full((100, 100, 3), 255, dtype=np.uint8)


class Drawn:
    """A map, and where its panels lie."""

    def __init__(self, path, given, thumbnail=WHITE, **more):
        draw_map(given, thumbnail, path, caption="looked at 8 patches", **more)
        self.pixels = np.array(Image.open(path))
        self.layout = Layout.of(part_shown(given), len(given["steps"]) + 1)

    def at(self, panel, x, y):
        """Give the color of a panel at a level-0 place."""
        row, column = divmod(panel, self.layout.columns)
        width, height = self.layout.cell
        x, y = x - self.layout.corner[0], y - self.layout.corner[1]
        left = MARGIN + column * (width + 28) + x * self.layout.scale[0]
        top = MARGIN + 84 + row * (height + 28) + HEADER + y * self.layout.scale[1]
        return tuple(self.pixels[round(top), round(left)].tolist())


def color_of(share):
    return tuple(colors(np.array([float(share)]))[0].tolist())


def test_the_part_with_patches_is_shown_with_a_margin_but_no_more_than_the_slide():
    assert part_shown(record()) == Box(0, 0, 2100, 2100)
    moved = [each | {"x": each["x"] + 1500, "y": each["y"] + 1500} for each in record()["regions"]]
    assert part_shown(record(regions=moved)) == Box(1400, 1400, 2200, 2200)


def test_each_patch_carries_the_color_of_its_attention(tmp_path):
    drawn = Drawn(tmp_path / "map.png", record())
    for x, y, score in [(500, 500, 0.1), (1500, 500, 0.2), (500, 1500, 0.3), (1500, 1500, 0.4)]:
        assert drawn.at(1, x, y) == color_of(score)
    for x, y, score in [(1250, 1250, 0.7), (1750, 1250, 0.2), (1750, 1750, 0.0)]:
        assert drawn.at(2, x, y) == color_of(score)


def test_the_highest_attention_is_darkest_where_it_stands_out(tmp_path):
    given = record()
    for column in range(96):
        given["regions"].append(region(0, column % 8, column // 8, 500.0, 0.0))
    # 0.4 is more than four times an even share of 100 patches.
    assert Drawn(tmp_path / "map.png", given).at(1, 1900, 1900) == color_of(1)


def test_a_magnification_shows_only_its_own_patches(tmp_path):
    drawn = Drawn(tmp_path / "map.png", record())
    assert drawn.at(1, 1250, 1250) == drawn.at(1, 1750, 1750)
    assert drawn.at(2, 500, 500) == (255, 255, 255)


def test_only_patches_zoomed_into_are_outlined(tmp_path):
    drawn = Drawn(tmp_path / "map.png", record())
    pixel = 1 / drawn.layout.scale[0]
    assert drawn.at(1, 1000 + pixel, 1500) == CHOSEN
    assert drawn.at(1, 2000 - pixel, 1500) == CHOSEN
    assert drawn.at(1, 500, 1000 + pixel) == color_of(0.3)


def test_the_slide_is_shown_plain_but_for_the_rim_of_what_was_visited(tmp_path):
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


def test_a_sharp_patch_keeps_its_place_and_color_on_a_huge_slide(tmp_path):
    tiny = region(1, 250, 250, 256.0, 0.9)
    given = record(size=(100_000, 100_000))
    given["regions"] += [tiny]
    drawn = Drawn(tmp_path / "map.png", given)
    assert drawn.at(2, 250.5 * 256, 250.5 * 256) == color_of(1)


def test_patches_that_count_nearly_alike_look_alike(tmp_path):
    given = record()
    for number, patch in enumerate(given["regions"]):
        patch["score"] = 0.25 + number * 1e-6
    drawn = Drawn(tmp_path / "map.png", given)
    assert drawn.at(1, 500, 500) == drawn.at(1, 1500, 1500) == color_of(0.25)


def test_probabilities_over_all_magnifications_share_one_scale(tmp_path):
    given = record()
    for patch, score in zip(given["regions"], [0.8, *[0.0] * 3, 0.2, *[0.0] * 3], strict=True):
        patch |= {"score": score, "score_kind": "probability"}
    drawn = Drawn(tmp_path / "map.png", given)
    assert drawn.at(1, 500, 500) == color_of(1)
    assert drawn.at(2, 1250, 1250) == color_of(0.25)


def test_a_magnification_without_patches_is_drawn_empty(tmp_path):
    given = record()
    given["regions"] = given["regions"][:4]
    assert Drawn(tmp_path / "map.png", given).at(2, 1250, 1250) == (255, 255, 255)


def test_the_scale_darkens_evenly():
    red, green, blue = colors(np.linspace(0, 1, 50)).astype(float).T
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


def test_what_reaches_beyond_the_slide_is_cut(tmp_path):
    given = record(size=(1500, 1500))
    given["regions"].append(region(1, 9, 9, 500.0, 0.1))
    drawn = Drawn(tmp_path / "map.png", given)
    assert drawn.at(1, 1400, 500) == color_of(0.2)


def test_the_most_attended_patches_are_shown_in_their_order(tmp_path):
    given = record()
    best = most_attended(given, 2)
    assert [patch["id"] for patch in best] == ["1-2-2", "1-3-2"]
    shown = {"1-3-2": np.full((256, 256, 3), 50), "1-2-2": np.full((99, 256, 3), 200)}
    details = {name: pixels.astype(np.uint8) for name, pixels in shown.items()}
    with_tiles = Drawn(tmp_path / "tiles.png", given, details=details).pixels
    without = Drawn(tmp_path / "map.png", given).pixels
    assert with_tiles.shape[0] > without.shape[0]
    row = with_tiles[-MARGIN - 100]
    assert row[MARGIN + 100].tolist() == [200] * 3
    assert row[MARGIN + 228 + 100].tolist() == [50] * 3


def test_a_long_name_is_shortened_in_its_middle():
    assert fit("a-slide", 18, 500) == "a-slide"
    short = fit("start" + "x" * 500 + "finish", 18, 300)
    assert short.startswith("start")
    assert short.endswith("finish")
    assert "…" in short


def test_the_same_record_gives_the_same_bytes(tmp_path):
    for name in ("one.png", "two.png"):
        draw_map(record(), WHITE, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_map_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
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


def test_a_region_without_a_place_is_refused(tmp_path):
    given = record()
    del given["regions"][3]["x"], given["regions"][3]["width"]
    with pytest.raises(ValueError, match="a region of the record has no width, x, so its place"):
        draw_map(given, WHITE, tmp_path / "map.png")
