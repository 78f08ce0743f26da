import io
import os
import re
import time

import numpy as np
import pytest
from PIL import Image

from parfocal.slide.errors import NoTissueError
from parfocal.slide.slide import Box, open_slide, slide_from_array
from parfocal.slide.stain import faint_share
from parfocal.slide.tissue import GLASS_COLOR, TISSUE_COLOR, Tissue, find_tissue

STAIN = (190, 90, 160)

# Shares of slides whose masks were found right by eye.
REAL_SHARES = [
    ("slides/CMU-1-Small-Region.svs", 0.37651),
    ("slides/OS-1-detail.ome.tif", 1),
    ("slides/camelyon16-multiframe.dcm", 0.23202),
    ("slides/her2st-C2.tif", 0.16391),
    ("slides/idc-14306.tif", 0.11243),
    ("prostate/0535f33b47de.tif", 0.00994),
    ("prostate/1f6a82e2a749.tif", 0.0136),
    ("prostate/3ec4b92b80df.tif", 0.00875),
    ("prostate/55d91c327109.tif", 0.01073),
    ("prostate/6ac2095c7968.tif", 0.00919),
    ("prostate/7f9c400a79bb.tif", 0.01568),
]


def glass(height=400, width=600):
    """Return slightly yellow glass with the noise of a camera."""
    color = np.random.default_rng(0).normal((242, 241, 237), 2, (height, width, 3))
    return np.clip(color, 0, 255).round().astype(np.uint8)


def slide_of(pixels):
    return slide_from_array(pixels, mpp=16.0, name="S-1")


@pytest.mark.parametrize("method", ["otsu", "gray"])
def test_the_mask_is_the_stained_part(method):
    pixels = glass()
    pixels[100:300, 150:450] = STAIN
    tissue = find_tissue(slide_of(pixels), method=method)
    assert tissue.mask.shape == (400, 600)
    assert tissue.mask[104:296, 154:446].all()
    assert not tissue.mask[:96].any()
    assert not tissue.mask[:, 454:].any()
    assert tissue.share == pytest.approx(0.25, abs=0.01)
    assert tissue.area_mm2 == pytest.approx(200 * 300 * 0.016**2, rel=0.03)


def test_pale_tissue_beside_dark_is_kept():
    pixels = glass()
    pixels[50:150, 50:150] = (130, 20, 90)
    pixels[200:350, 200:500] = (235, 195, 215)
    assert find_tissue(slide_of(pixels)).mask[204:346, 204:496].all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_uniform_slide_has_no_tissue(level):
    with pytest.raises(NoTissueError, match="S-1: "):
        find_tissue(slide_of(np.full((300, 300, 3), level, dtype=np.uint8)))


@pytest.mark.parametrize("method", ["otsu", "gray"])
def test_empty_glass_has_no_tissue(method):
    with pytest.raises(NoTissueError, match=r"S-1: no tissue found, .*with --tissue"):
        find_tissue(slide_of(glass()), method=method)


def test_a_dark_scan_is_refused():
    pixels = np.zeros((300, 300, 3), dtype=np.uint8)
    pixels[50:120, 50:120] = (20, 30, 220)
    with pytest.raises(NoTissueError, match="S-1: more than half of the scan is nearly black"):
        find_tissue(slide_of(pixels))


def test_black_around_a_scan_is_not_its_background():
    pixels = np.zeros((400, 600, 3), dtype=np.uint8)
    pixels[:, :250] = glass(400, 250)
    pixels[100:300, 50:200] = STAIN
    mask = find_tissue(slide_of(pixels)).mask
    assert mask[104:296, 54:196].all()
    assert mask.mean() == pytest.approx(0.125, abs=0.01)


@pytest.mark.parametrize("color", [(20, 30, 220), (40, 250, 30), (250, 90, 20)])
def test_bright_fluorescence_on_black_is_refused(color):
    pixels = np.zeros((300, 300, 3), dtype=np.uint8)
    pixels[50:180, 50:180] = color
    with pytest.raises(NoTissueError, match="Fluorescence is not supported"):
        find_tissue(slide_of(pixels))


@pytest.mark.parametrize("rows", [400, 6])
def test_tissue_on_nearly_none_or_all_of_the_scan_has_a_warning(rows):
    pixels = glass()
    pixels[:rows, : 600 if rows == 400 else 60] = STAIN
    tissue = find_tissue(slide_of(pixels))
    assert re.search(r"^S-1: tissue was found on \d.*% of the scan\.", tissue.warning)
    assert tissue.warning.endswith("give a file with the tissue with --tissue.")


def test_the_share_of_a_little_tissue_has_a_digit():
    pixels = np.full((1000, 1000, 3), 240, dtype=np.uint8)
    pixels[:20, :20] = STAIN
    assert "tissue was found on 0.04% of the scan" in find_tissue(slide_of(pixels)).warning


def test_green_stain_that_is_left_out_as_ink_has_a_warning():
    pixels = glass()
    pixels[100:300, 150:300] = STAIN
    pixels[100:300, 300:450] = (150, 200, 170)
    tissue = find_tissue(slide_of(pixels))
    assert "S-1: 50% of the colored area is green and was left out as marker ink" in tissue.warning
    pixels[100:300, 150:300] = pixels[0, 0]
    with pytest.raises(NoTissueError, match="since the colored area is green, like marker ink"):
        find_tissue(slide_of(pixels))


def test_faint_tissue_that_a_pen_hides_has_a_warning():
    pixels = glass()
    pixels[50:250, 100:500] = (235, 222, 230)
    pixels[330:360, 100:500] = (20, 40, 160)
    warning = find_tissue(slide_of(pixels)).warning
    assert re.search(r"3\d\.\d% of the scan is faintly colored and was left out", warning)


@pytest.mark.parametrize(
    ("mpp", "side", "share"), [(16.0, 20, 0.0), (16.0, 40, 0.04), (2.0, 40, 0.0)]
)
def test_specks_of_faint_color_beside_tissue_do_not_count(mpp, side, share):
    saturation, found = np.zeros((200, 200), np.uint8), np.zeros((200, 200), bool)
    found[:100, :100] = True  # 20 x 20 pixels are 4% of it, and 40 pixels of 2 µm are 80 µm
    saturation[150 : 150 + side, 150 : 150 + side] = 25
    assert faint_share(saturation, np.ones_like(found), found, mpp) == pytest.approx(share)


def test_a_gray_scan_is_refused_as_such():
    pixels = glass()[:, :, :1].repeat(3, axis=2)
    pixels[100:300, 150:300] = 120
    with pytest.raises(NoTissueError, match="since the scan is gray, without any color"):
        find_tissue(slide_of(pixels))


def test_a_dark_canvas_that_is_not_black_is_not_fluorescence():
    pixels = np.full((400, 600, 3), 16, dtype=np.uint8)
    pixels[:, :250] = glass(400, 250)
    pixels[100:300, 50:200] = STAIN
    tissue = find_tissue(slide_of(pixels))
    assert (tissue.share, tissue.warning) == (pytest.approx(0.125, abs=0.01), None)


def test_a_dark_scan_without_glass_has_a_warning():
    pixels = np.full((400, 600, 3), 20, dtype=np.uint8)
    pixels[:, :400] = (150, 80, 120)
    warning = find_tissue(slide_of(pixels)).warning
    assert "33% of the scan is dark and nothing is as bright as glass" in warning


def test_the_advice_about_tissue_names_what_the_command_takes(tmp_path):
    path = tmp_path / "S-1.png"
    Image.new("RGB", (600, 400), STAIN).save(path)
    with open_slide(path, mpp=16.0, from_cohort=True) as slide:
        warning = find_tissue(slide).warning
    assert "the cohort's tissue column" in warning
    assert "--tissue-method of `inspect` and `extract`, slide.tissue_method of `train`" in warning


def test_usual_tissue_has_no_warning():
    pixels = glass()
    pixels[100:300, 150:450] = STAIN
    assert find_tissue(slide_of(pixels)).warning is None
    assert find_tissue(slide_of(pixels), method="all").warning is None


@pytest.mark.parametrize("mpp", [4.0, 16.0, 40.0])
def test_the_mask_does_not_depend_on_the_number_of_cores(monkeypatch, mpp):
    pixels = np.random.default_rng(1).integers(150, 256, (41, 50, 3), dtype=np.uint8)
    slide = slide_from_array(pixels.repeat(9, 0).repeat(9, 1), mpp=mpp)
    one, *others = [mask_with_cores(monkeypatch, slide, cores) for cores in (1, 2, 4)]
    assert 0.01 < one.mean() < 0.99
    assert all((mask == one).all() for mask in others)


def mask_with_cores(monkeypatch, slide, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(count)))
    return find_tissue(slide).mask


def test_black_borders_and_ink_are_not_tissue():
    pixels = glass()
    pixels[:, :100] = (2, 1, 4)
    pixels[50:90, 150:400] = (20, 160, 60)
    pixels[200:300, 200:400] = STAIN
    mask = find_tissue(slide_of(pixels)).mask
    assert not mask[:, :96].any()
    assert not mask[:190].any()
    assert mask[204:296, 204:396].all()


def test_specks_and_pinholes_are_removed():
    pixels = glass()
    pixels[100:300, 150:450] = STAIN
    pixels[200:202, 300:302] = 240
    pixels[20:22, 20:22] = STAIN
    mask = find_tissue(slide_of(pixels)).mask
    assert mask[198:204, 298:304].all()
    assert not mask[:90].any()


@pytest.mark.parametrize(("spread", "tissue"), [(14, 0), (15, 1), (16, 1)])
def test_the_gray_filter_keeps_a_spread_of_15(spread, tissue):
    pixels = np.full((300, 300, 3), 200, dtype=np.uint8)
    pixels[:150, :, 1] -= 40
    pixels[150:, :, 1] -= spread
    mask = find_tissue(slide_of(pixels), method="gray").mask
    assert (mask[155:] == bool(tissue)).all()


# --- resolution ---


def test_a_large_slide_is_masked_from_a_stored_level(pyramid):
    pixels = np.full((2048, 3072, 3), 240, dtype=np.uint8)
    pixels[512:1024, 512:1024] = STAIN
    with open_slide(pyramid([pixels, pixels[::4, ::4]], mpp=4.0)) as slide:
        tissue = find_tissue(slide)
        cost = slide.cost_meter.total()
    assert tissue.mask.shape == (512, 768)
    assert tissue.mask_mpp == pytest.approx(16)
    assert tissue.level_mpps == pytest.approx((4, 16))
    assert cost.pixels_decoded == 512 * 768
    assert cost.seconds["tissue"] > 0
    assert cost.seconds["read"] == 0


def test_a_small_picture_is_masked_finer():
    pixels = glass(1024, 1024)
    pixels[300:700, 300:700] = STAIN
    tissue = find_tissue(slide_from_array(pixels, mpp=0.25))
    assert tissue.mask.shape == (512, 512)
    assert tissue.mask_mpp == 0.5


def test_a_coarse_scan_is_masked_at_its_own_resolution():
    pixels = glass()
    pixels[100:300, 150:450] = STAIN
    assert find_tissue(slide_from_array(pixels, mpp=29.0)).mask_mpp == 29.0


# --- the share of tissue in squares ---


def plain_share(tissue, x, y, side):
    """Add the part of each mask pixel that a square covers."""
    scale = tissue.slide_size[0] / tissue.mask.shape[1]
    covered = 0.0
    for row, column in np.argwhere(tissue.mask):
        across = min(x + side, (column + 1) * scale) - max(x, column * scale)
        down = min(y + side, (row + 1) * scale) - max(y, row * scale)
        covered += max(across, 0.0) * max(down, 0.0)
    return covered / side**2


def test_the_share_of_tissue_is_exact_for_any_square():
    rng = np.random.default_rng(1)
    tissue = Tissue(rng.random((12, 20)) < 0.4, 16.0, (640, 384), 0.5, (0.5,))
    x, y = rng.uniform(-100, 700, 50), rng.uniform(-100, 450, 50)
    for side in (7.3, 64.0, 900.0):
        expected = [plain_share(tissue, a, b, side) for a, b in zip(x, y, strict=True)]
        assert tissue.fraction(x, y, side) == pytest.approx(expected, abs=1e-9)


def test_outside_the_slide_counts_as_no_tissue():
    tissue = Tissue(np.ones((4, 4), dtype=bool), 16.0, (128, 128), 0.5, (0.5,))
    x, y = np.array([0, -32, 96, 500]), np.array([0, 0, 96, 0])
    assert tissue.fraction(x, y, 64.0).tolist() == [1.0, 0.5, 0.25, 0.0]


# --- cost, and real slides ---


def test_two_megapixels_take_less_than_a_second():
    pixels = glass(1400, 1500)
    pixels[300:900, 300:900] = STAIN
    slide = slide_of(pixels)
    start = time.process_time()
    find_tissue(slide)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("slides/CMU-1-Small-Region.svs", 0.3, 0.4),
        ("slides/camelyon16-multiframe.dcm", 0.18, 0.25),
        ("slides/her2st-C2.tif", 0.14, 0.19),
        ("slides/idc-14306.tif", 0.09, 0.14),
        ("prostate/0535f33b47de.tif", 0.006, 0.015),
        ("prostate/591a3db736f2.tif", 0.07, 0.1),
    ],
)
def test_the_tissue_share_of_a_real_slide_matches_visual_inspection(real, name, low, high):
    with open_slide(real(name)) as slide:
        assert low < find_tissue(slide).share < high


@pytest.mark.parametrize(("name", "share"), REAL_SHARES)
def test_the_tissue_share_of_a_real_slide_does_not_change(real, name, share):
    with open_slide(real(name)) as slide:
        assert find_tissue(slide).share == pytest.approx(share, rel=0.01)


def test_the_tumor_patches_of_a_real_slide_are_tissue(real):
    table = np.loadtxt(real("slides/idc-14306.patches.csv"), delimiter=",", skiprows=1)
    tumor = table[table[:, 4] == 1]
    with open_slide(real("slides/idc-14306.tif")) as slide:
        tissue = find_tissue(slide)
    assert (tissue.fraction(tumor[:, 0], tumor[:, 1], 50.0) > 0.1).mean() > 0.97


def test_a_real_fluorescence_scan_is_refused(real):
    with (
        open_slide(real("slides/test3-DAPI-2-387.ndpi")) as slide,
        pytest.raises(NoTissueError, match="Fluorescence is not supported"),
    ):
        find_tissue(slide)


def test_tissue_in_a_box_of_a_real_slide_is_darker_than_the_rest(real):
    with open_slide(real("slides/her2st-C2.tif")) as slide:
        tissue = find_tissue(slide)
        pixels = slide.read(Box(0, 0, *slide.size), tissue.mask_mpp)
    assert pixels[tissue.mask].mean() < pixels[~tissue.mask].mean() - 50


def test_tissue_is_shown_in_notebooks_as_a_small_picture_of_its_mask():
    mask = np.zeros((4, 8), dtype=bool)
    mask[:, :4] = True
    shown = Tissue(mask, 16.0, (128, 64), 1.0, (1.0,))._repr_png_()
    pixels = np.array(Image.open(io.BytesIO(shown)))
    assert pixels.shape == (240, 480, 3)
    assert tuple(pixels[120, 100]) == TISSUE_COLOR
    assert tuple(pixels[120, 400]) == GLASS_COLOR
