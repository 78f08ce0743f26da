import io

import numpy as np
import pytest
from PIL import Image

from parfocal.grid import GridError, PatchGrid, child_order, whole_ratio
from parfocal.grid.picture import GAP, HEADER, PANEL_PX, PATCH, SLIDE
from parfocal.slide.tissue import Tissue


def tissue(width, height, *, mpp=1.0, levels=(1.0,), mask=None):
    """Return the tissue of a slide of this size, all of it tissue unless there is a mask."""
    mask = np.ones((height // 16, width // 16), dtype=bool) if mask is None else mask
    return Tissue(
        mask=mask,
        mask_mpp=mpp * width / mask.shape[1],
        slide_size=(width, height),
        slide_mpp=mpp,
        level_mpps=levels,
    )


def test_children_tile_their_parent():
    grid = PatchGrid.over(tissue(4096, 4096), (8.0, 4.0, 1.0), 256)
    assert grid.counts == (4, 16, 256)
    for step in (1, 2):
        children = grid.coords(step).reshape(grid.counts[step - 1], -1, 2)
        first = grid.coords(step - 1)[:, None]
        inside = children - first
        side = grid.side_px(step)
        per_side = grid.ratios[step - 1]
        expected = {(c * side, r * side) for c in range(per_side) for r in range(per_side)}
        assert all({tuple(xy) for xy in block} == expected for block in inside.tolist())


@pytest.mark.parametrize("mpp", [0.2282, 0.2428, 0.499, 0.688])
def test_parents_and_children_coincide_to_less_than_a_pixel(mpp):
    grid = PatchGrid.over(tissue(40_000, 30_000, mpp=mpp, levels=(mpp, 4 * mpp)), (8, 4, 1), 256)
    for step in (1, 2):
        blocks = grid.coords(step).reshape(grid.counts[step - 1], -1, 2)
        assert np.abs(blocks.min(axis=1) - grid.coords(step - 1)).max() <= 1
        far = blocks.max(axis=1) + grid.side_px(step)
        assert np.abs(far - grid.coords(step - 1) - grid.side_px(step - 1)).max() <= 1.5


def test_skipping_a_magnification_keeps_the_order():
    area = tissue(4096, 6144)
    direct = PatchGrid.over(area, (8, 2), 256)
    through = PatchGrid.over(area, (8, 4, 2), 256)
    assert np.array_equal(direct.coords(1), through.coords(2))


def test_children_are_ordered_depth_first_and_column_by_column():
    assert child_order(4)[:6].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3]]
    assert child_order(3).tolist() == [[c, r] for c in range(3) for r in range(3)]


def test_any_whole_ratio_nests():
    grid = PatchGrid.over(tissue(6144, 6144), (12, 4, 2), 256)
    assert grid.ratios == (3, 2)
    assert len(np.unique(grid.coords(2), axis=0)) == grid.counts[2] == 144


def test_the_coordinates_of_some_rows_are_those_of_the_whole_grid():
    grid = PatchGrid.over(tissue(4096, 4096), (8, 4, 1), 256)
    rows = np.array([200, 3, 77])
    assert np.array_equal(grid.coords(2, rows), grid.coords(2)[rows])


def test_only_patches_with_tissue_are_kept():
    mask = np.zeros((256, 256), dtype=bool)
    mask[:128, 128:] = True
    grid = PatchGrid.over(tissue(4096, 4096, mask=mask), (8, 1), 256)
    assert grid.coords(0).tolist() == [[2048, 0]]
    assert grid.sharpest_patches == 64


def test_if_no_patch_has_enough_tissue_all_with_any_are_kept():
    mask = np.zeros((256, 256), dtype=bool)
    mask[0, 0] = True
    grid = PatchGrid.over(tissue(4096, 4096, mask=mask), (8, 1), 256)
    assert grid.coords(0).tolist() == [[0, 0]]
    assert np.flatnonzero(grid.valid(1)).tolist() == [0]
    assert grid.sharpest_patches == 1


def test_children_beyond_the_edge_do_not_exist():
    grid = PatchGrid.over(tissue(3072, 2048), (8, 4), 256)
    beyond = grid.coords(1)[~grid.valid(1)]
    assert grid.counts == (2, 8)
    assert beyond.tolist() == [[3072, 0], [3072, 1024]]
    assert grid.valid(0).all()


def test_children_without_tissue_do_not_exist_unless_all_are_kept():
    mask = np.zeros((256, 256), dtype=bool)
    mask[:, 150:160] = True  # 2400 to 2560 of 4096 pixels
    area = tissue(4096, 4096, mask=mask)
    grid = PatchGrid.over(area, (8, 4, 1), 256, min_tissue=0.01)
    assert grid.valid(0).all()
    assert grid.coords(1)[grid.valid(1)].tolist() == [[2048, y] for y in range(0, 4096, 1024)]
    assert grid.coords(2)[grid.valid(2)].tolist() == [[2304, y] for y in range(0, 4096, 256)]
    everything = PatchGrid.over(area, (8, 4, 1), 256, min_tissue=0.01, children="all")
    assert grid.counts == everything.counts
    assert all(everything.valid(step).all() for step in range(3))


def sliver():
    """Return tissue at the left edge, and a speck: a small share of 4 µm/px, a large one of 1."""
    mask = np.zeros((256, 256), dtype=bool)
    mask[:, :20] = True
    mask[:8, 64:70] = True
    return tissue(4096, 4096, mask=mask)


def test_by_descendants_a_patch_exists_for_a_single_sharp_patch_in_it():
    grid = PatchGrid.over(sliver(), (8, 4, 1), 256, min_tissue=0.05)
    assert sorted(grid.coords(0).tolist()) == [[0, 0], [0, 2048]]
    assert [1024, 0] in grid.coords(1)[grid.valid(1)].tolist()
    assert np.count_nonzero(grid.valid(2)) == grid.sharpest_patches == 33


def test_by_share_a_patch_with_too_little_tissue_does_not_exist_nor_do_its_children():
    grid = PatchGrid.over(sliver(), (8, 4, 1), 256, min_tissue=0.05, roots="share")
    assert grid.coords(1)[grid.valid(1)].tolist() == [[0, y] for y in range(0, 4096, 1024)]
    sharp = grid.coords(2)[grid.valid(2)]
    assert sorted(set(sharp[:, 0].tolist())) == [0, 256]
    assert len(sharp) < grid.sharpest_patches == 33


def test_zooming_into_all_patches_visits_no_more_than_exhaustive_processing():
    mask = np.random.default_rng(0).random((125, 187)) < 0.1
    grid = PatchGrid.over(tissue(3000, 2000, mask=mask), (8, 4, 1), 256)
    assert 0 < np.count_nonzero(grid.valid(2)) <= grid.sharpest_patches


@pytest.mark.parametrize("roots", ["descendants", "share"])
def test_a_patch_exists_if_a_child_does(roots):
    mask = np.random.default_rng(0).random((125, 187)) < 0.002
    grid = PatchGrid.over(tissue(3000, 2000, mask=mask), (8, 4, 1), 256, roots=roots)
    for step in (0, 1):
        families = grid.valid(step + 1).reshape(grid.counts[step], -1)
        assert np.array_equal(families.any(axis=1), grid.valid(step))
        assert not families.all()
    rows = np.array([70, 3, 41])
    assert np.array_equal(grid.valid(2, rows), grid.valid(2)[rows])


def test_the_sharpest_resolution_is_that_of_a_stored_level_near_it():
    area = tissue(40_000, 40_000, mpp=0.2428, levels=(0.2428, 0.9712))
    grid = PatchGrid.over(area, (8, 4, 1), 256)
    assert grid.mpps == pytest.approx((7.7696, 3.8848, 0.9712))
    assert grid.side_px(2) == pytest.approx(1024)


def test_resolutions_far_from_every_level_are_kept_as_requested():
    grid = PatchGrid.over(tissue(40_000, 40_000, mpp=0.688, levels=(0.688, 2.752)), (4, 1), 256)
    assert grid.mpps == (4, 1)


def test_a_resolution_finer_than_the_scan_is_refused():
    with pytest.raises(GridError, match=r"10x .1 µm/px. is sharper than the scan, which is 2.5x"):
        PatchGrid.over(tissue(4096, 4096, mpp=4.0, levels=(4.0,)), (8, 1))


def test_a_slide_smaller_than_a_patch_is_refused():
    with pytest.raises(GridError, match=r"1024 x 512 um, 0.5 x 0.25 of a patch at 1.25x \(2048 um"):
        PatchGrid.over(tissue(1024, 512), (8, 1))


@pytest.mark.parametrize(
    ("side", "advice"),
    [
        (700, "use magnifications of 3.66x or higher .slide.magnifications., smaller patches"),
        (512, "use magnifications of 5x or higher"),
        (200, "; use smaller patches .slide.patch_size., or exclude the slide"),
    ],
)
def test_the_advice_about_a_small_slide_helps(side, advice):
    with pytest.raises(GridError, match=advice):
        PatchGrid.over(tissue(side, side), (8, 1))


def test_ratios_that_do_not_nest_are_refused():
    with pytest.raises(ValueError, match=r"1.25x to 3x is a ratio of 2.4"):
        PatchGrid.over(tissue(4096, 4096), (8, 10 / 3))


def test_a_scan_within_five_percent_of_the_sharpest_resolution_is_read_without_resampling():
    for mpp in (0.954, 1.052):  # 1 is 4.8% above, and 4.9% below
        grid = PatchGrid.over(tissue(4096, 4096, mpp=mpp, levels=(mpp,)), (4, 1))
        assert grid.mpps == pytest.approx((4 * mpp, mpp))
    with pytest.raises(GridError, match=r"10x .1 µm/px. is sharper than the scan, which is 9.43x"):
        PatchGrid.over(tissue(4096, 4096, mpp=1.06, levels=(1.06,)), (4, 1))


@pytest.mark.parametrize(
    ("larger", "smaller", "ratio"),
    [(10, 2.5, 4), (8.0, 8 / 3, 3), (10, 10 / 2.0000001, 2), (10, 9.99, None), (10, 3.33, None)],
)
def test_patches_nest_only_at_whole_ratios(larger, smaller, ratio):
    assert whole_ratio(larger, smaller) == ratio


def test_a_grid_is_shown_in_notebooks_with_a_panel_for_each_magnification():
    mask = np.zeros((32, 32), dtype=bool)
    mask[:16, :16] = True  # one of four patches of the lowest magnification
    grid = PatchGrid.over(tissue(512, 512, mask=mask), (4, 1), 64)
    pixels = np.array(Image.open(io.BytesIO(grid._repr_png_())))
    assert pixels.shape == (HEADER + PANEL_PX, 2 * PANEL_PX + GAP, 3)
    for left in (0, PANEL_PX + GAP):
        quarter = left + PANEL_PX // 4 + 5, left + 3 * PANEL_PX // 4 + 5
        assert tuple(pixels[HEADER + 85, quarter[0]]) == PATCH
        assert tuple(pixels[HEADER + 85, quarter[1]]) == SLIDE
