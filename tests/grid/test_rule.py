"""The rule by which patches exist, against plain loops on random tissue."""

from itertools import product

import numpy as np
import pytest

from parfocal.grid import PatchGrid
from parfocal.slide.tissue import Tissue

LADDERS = [(8, 4, 1), (4, 1), (1,), (8, 4), (8, 2), (12, 4, 2), (6, 2, 1), (16, 8, 4, 2, 1)]


def random_tissue(seed, *, share=None):
    """Return random tissue on a slide whose sides are no multiple of a patch's."""
    generator = np.random.default_rng(seed)
    width, height = (int(side) for side in generator.integers(2100, 6000, 2))
    mpp = float(generator.choice([1.0, 0.97, 0.9602, 1.033]))
    share = float(generator.choice([0.002, 0.05, 0.4])) if share is None else share
    blobs = generator.random((height // 48, width // 48)) < share
    mask = np.kron(blobs, np.ones((3, 3), dtype=bool))
    mask[-1, -1] = True  # the corner of the scan
    return Tissue(
        mask=mask,
        mask_mpp=mpp * width / mask.shape[1],
        slide_size=(width, height),
        slide_mpp=mpp,
        level_mpps=(mpp, 4.003 * mpp),
    )


def passing_cells(tissue, grid, min_tissue):
    """Return (column, row) of the sharpest patches that pass."""
    side = grid.side_px(len(grid.mpps) - 1)
    cells = np.array(list(product(*(range(int(px // side) + 1) for px in tissue.slide_size))))
    share = tissue.fraction(*(cells.T * side), side)
    enough = share >= min_tissue * (1 - 1e-6)
    return set(map(tuple, cells[enough if enough.any() else share > 1e-7].tolist()))


@pytest.mark.parametrize("mpps", LADDERS, ids=str)
@pytest.mark.parametrize("min_tissue", [0.01, 0.1, 0.9])
def test_a_patch_exists_if_and_only_if_a_sharpest_descendant_passes(mpps, min_tissue):
    for seed in range(4):
        tissue = random_tissue(seed)
        grid = PatchGrid.over(tissue, mpps, 64, min_tissue=min_tissue)
        passing = passing_cells(tissue, grid, min_tissue)
        for step in range(len(mpps)):
            ratio = round(mpps[step] / mpps[-1])
            expected = {(column // ratio, row // ratio) for column, row in passing}
            existing = grid.cells(step, np.flatnonzero(grid.valid(step)))
            assert len(existing) == len(expected)
            assert {(column, row) for column, row in existing.tolist()} == expected


@pytest.mark.parametrize("mpps", LADDERS, ids=str)
@pytest.mark.parametrize("min_tissue", [0.0, 0.1, 0.9])
def test_all_that_passes_can_be_reached(mpps, min_tissue):
    for seed in range(10):
        grid = PatchGrid.over(random_tissue(seed), mpps, 64, min_tissue=min_tissue)
        assert grid.reach.unreachable == 0
        assert np.count_nonzero(grid.valid(len(mpps) - 1)) == grid.sharpest_patches
        assert grid.valid(0).all()


def test_by_share_the_lost_tissue_is_reported():
    lost = []
    for seed in range(10):
        grid = PatchGrid.over(random_tissue(seed, share=0.1), (8, 4, 1), 64, roots="share")
        sharp = grid.shares[-1]
        reached = np.zeros(sharp.shape, dtype=bool)
        for column, row in grid.cells(2, np.flatnonzero(grid.valid(2))):
            reached[row, column] = True
        assert sharp[reached].sum() / sharp.sum() == pytest.approx(
            1 - grid.reach.unreachable - grid.reach.below_min_tissue
        )
        lost.append(grid.reach.unreachable)
    assert min(lost) > 0.05


def test_tissue_in_patches_with_too_little_of_it_is_reported():
    mask = np.zeros((64, 64), dtype=bool)
    mask[:16, :12] = True  # three quarters of the first patch
    mask[0, 16] = True  # 1/256 of the second
    tissue = Tissue(mask, 4.0, (256, 256), 1.0, (1.0,))
    reach = PatchGrid.over(tissue, (2, 1), 64).reach
    assert reach.below_min_tissue == pytest.approx(1 / 193)
    assert reach.unreachable == 0
    assert reach.min_tissue_met


def test_if_no_patch_has_enough_tissue_those_with_any_are_kept():
    mask = np.zeros((64, 64), dtype=bool)
    mask[0, 0] = mask[40, 40] = True
    tissue = Tissue(mask, 4.0, (256, 256), 1.0, (1.0,))
    grid = PatchGrid.over(tissue, (2, 1), 64)
    assert grid.coords(1)[grid.valid(1)].tolist() == [[0, 0], [128, 128]]
    assert not grid.reach.min_tissue_met
    assert grid.reach.below_min_tissue == 0


def test_tissue_in_the_last_half_pixel_of_a_scan_is_still_kept():
    mask = np.zeros((514, 514), dtype=bool)
    mask[:, 513] = True  # half a level-0 pixel, an eighth of a pixel of the patch
    tissue = Tissue(mask, 0.5, (257, 257), 1.0, (1.0,))
    assert len(PatchGrid.over(tissue, (4,), 64, min_tissue=0.5).roots) == 2
    grid = PatchGrid.over(tissue, (4,), 64)
    assert grid.coords(0).tolist() == [[256, 0], [256, 256]]


@pytest.mark.parametrize("children", ["all", "tissue"])
def test_at_one_magnification_both_rules_are_the_same(children):
    for seed in range(5):
        tissue = random_tissue(seed)
        by_share, by_descendants = (
            PatchGrid.over(tissue, (2,), 64, children=children, roots=roots)
            for roots in ("share", "descendants")
        )
        assert np.array_equal(by_share.roots, by_descendants.roots)


def test_all_children_of_kept_patches_exist_if_requested():
    for seed in range(5):
        tissue = random_tissue(seed)
        grid = PatchGrid.over(tissue, (8, 4, 1), 64, children="all")
        kept = PatchGrid.over(tissue, (8, 4, 1), 64)
        assert np.array_equal(grid.roots, kept.roots)
        for step in (1, 2):
            inside = (grid.coords(step) < np.array(grid.slide_size) - 8).all(axis=1)
            assert grid.valid(step)[inside].all()
            assert grid.valid(step)[kept.valid(step)].all()
        assert grid.reach.unreachable == 0


def test_the_squares_in_reach_and_out_of_it_are_listed():
    mask = np.zeros((64, 64), dtype=bool)
    mask[:32, :32] = True  # 2 x 2 patches of 64 px
    mask[48:52, 32:48] = True  # a quarter of one patch of 64 px, 1/16 of one of 128 px
    tissue = Tissue(mask, 4.0, (256, 256), 1.0, (1.0,))
    by_share = PatchGrid.over(tissue, (2, 1), 64, roots="share").reach
    assert by_share.squares.reachable == ((0, 0, 2), (1, 0, 2))
    assert by_share.squares.out_of_reach == ((3, 2, 1),)
    assert by_share.unreachable == pytest.approx(64 / 1088)
    by_descendants = PatchGrid.over(tissue, (2, 1), 64).reach
    assert by_descendants.squares.reachable == ((0, 0, 2), (1, 0, 2), (3, 2, 1))
    assert by_descendants.squares.out_of_reach == ()
    assert by_descendants.squares.side == 64


def test_tissue_without_a_patch_is_measured_at_each_magnification():
    mask = np.zeros((64, 64), dtype=bool)
    mask[:32, :32] = True
    mask[48:52, 32:48] = True
    tissue = Tissue(mask, 4.0, (256, 256), 1.0, (1.0,))
    lost = pytest.approx(64 / 1088)
    assert PatchGrid.over(tissue, (2, 1), 64, roots="share").unreachable == (lost, lost)
    assert PatchGrid.over(tissue, (4, 1), 64, roots="share").unreachable == (0, 0)
    assert PatchGrid.over(tissue, (4, 2, 1), 64, roots="share").unreachable == (0, lost, lost)
    assert PatchGrid.over(tissue, (4, 2, 1), 64).unreachable == (0, 0, 0)
