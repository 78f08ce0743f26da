"""A feature file at some of its magnifications has the patches that a live bag of these has."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.encoders.encoder import Encoder
from parfocal.features.errors import MixedFeaturesError
from parfocal.features.extract import extract_slide
from parfocal.features.header import Header, SlideSettings
from parfocal.features.live import live_bag
from parfocal.features.store import FeatureFile
from parfocal.features.writer import create
from parfocal.grid import PatchGrid
from parfocal.slide.resolution import mpp_of
from parfocal.slide.slide import slide_from_array
from parfocal.slide.tissue import Tissue

LADDER = (1.25, 2.5, 5.0, 10.0)
UNEVEN = (10 / 12, 2.5, 5.0)  # ratios of 3 and 2, whose children are in another order than of 6


def specks(seed: int, *, mpp: float = 1.0, levels: tuple[float, ...] = (1.0, 4.0)) -> Tissue:
    """Return specks of tissue on a slide whose sides are no multiple of a patch's."""
    generator = np.random.default_rng(seed)
    blobs = generator.random((31, 26)) < 0.06
    mask = np.kron(blobs, np.ones((3, 3), dtype=bool))
    return Tissue(mask, 18 * mpp, (26 * 54 - 5, 31 * 54 - 11), mpp, levels)


def lay(tissue: Tissue, magnifications, **rule) -> PatchGrid:
    return PatchGrid.over(tissue, [mpp_of(each) for each in magnifications], 16, **rule)


def positions(grid: PatchGrid, step: int) -> torch.Tensor:
    """Return features that identify each existing patch: its resolution and cell."""
    cells = grid.cells(step, np.arange(grid.counts[step]))
    table = np.column_stack([np.full(len(cells), grid.mpps[step]), cells + 1]).astype(np.float32)
    table[~grid.valid(step)] = 0
    return torch.from_numpy(table)


def store(path: Path, grid: PatchGrid, magnifications, spec) -> FeatureFile:
    settings = SlideSettings(magnifications, 16, **vars(grid.rule))
    encoders = (replace(spec, dim=3),) * len(settings.magnifications)
    header = Header(encoders, settings, grid, path.stem, "ab" * 16, "given")
    with create(path, header, dtype="float32") as writer:
        for step in range(len(grid.mpps)):
            rows = np.flatnonzero(grid.valid(step))
            writer.write(step, rows, positions(grid, step).numpy()[rows])
    return FeatureFile(path)


def subsets(ladder):
    return [some for count in range(1, len(ladder) + 1) for some in combinations(ladder, count)]


def assert_equal_to_live(file: FeatureFile, live: PatchGrid, some) -> None:
    bag, selection = file.bag(some), file.select(some)
    assert np.array_equal(selection.grid.roots, live.roots)
    assert selection.grid.reach == live.reach
    assert selection.grid.sharpest_patches == live.sharpest_patches
    for step in range(len(some)):
        assert torch.equal(bag.features(), positions(live, step))
        assert bag.valid.tolist() == live.valid(step).tolist()
        assert np.array_equal(bag.cells(), live.cells(step, np.arange(live.counts[step])))
        if step + 1 < len(some):
            bag = bag.zoom(None)


@pytest.mark.parametrize("ladder", [LADDER, UNEVEN], ids=str)
@pytest.mark.parametrize("children", ["tissue", "all"])
@pytest.mark.parametrize("min_tissue", [0.02, 0.1, 0.6])
def test_stored_patches_equal_live_ones_for_every_subset_of_a_ladder(
    tmp_path, encoder: Encoder, ladder, children, min_tissue
):
    for seed in range(2):
        tissue, rule = specks(seed), {"min_tissue": min_tissue, "children": children}
        file = store(tmp_path / f"{seed}.h5", lay(tissue, ladder, **rule), ladder, encoder.spec)
        for some in subsets(ladder):
            live = lay(tissue, some, **rule)
            if live.reach.min_tissue_met or some[-1] == ladder[-1]:
                assert_equal_to_live(file, live, some)
            else:  # then patches with any tissue exist, and may not be in the file
                with pytest.raises(MixedFeaturesError, match="were not encoded"):
                    file.bag(some)


def test_patches_that_were_not_encoded_are_refused(tmp_path, encoder: Encoder):
    mask = np.zeros((64, 64), dtype=bool)
    mask[:2, :2] = mask[40, 40] = True  # one patch of 10x has enough tissue; none of 5x has
    tissue = Tissue(mask, 8.0, (512, 512), 1.0, (1.0,))
    file = store(
        tmp_path / "a.h5", lay(tissue, (5.0, 10.0), min_tissue=0.5), (5.0, 10.0), encoder.spec
    )
    assert not lay(tissue, (5.0,), min_tissue=0.5).reach.min_tissue_met
    with pytest.raises(MixedFeaturesError, match=r"cannot be used at 5x alone: 1 patches at 5x"):
        file.bag((5.0,))


def test_the_published_rule_is_refused_where_it_has_other_patches(tmp_path, encoder: Encoder):
    tissue, refused = specks(0), 0
    grid = lay(tissue, LADDER, roots="share")
    file = store(tmp_path / "a.h5", grid, LADDER, encoder.spec)
    for some in subsets(LADDER):
        live = lay(tissue, some, roots="share")
        try:
            assert_equal_to_live(file, live, some)
        except MixedFeaturesError as error:
            refused += "were not encoded" in str(error)
    assert 0 < refused < len(subsets(LADDER))


def test_another_resolution_without_the_highest_magnification_is_refused(
    tmp_path, encoder: Encoder
):
    tissue = specks(0, mpp=0.97, levels=(0.97, 4.02))
    file = store(tmp_path / "a.h5", lay(tissue, LADDER), LADDER, encoder.spec)
    for some in subsets(LADDER):
        if some[-1] == 10:
            assert_equal_to_live(file, lay(tissue, some), some)
    with pytest.raises(MixedFeaturesError, match=r"at 1.25x, 2.5x alone: .* read at 8.04 µm/px"):
        file.bag((1.25, 2.5))


def test_a_file_is_checked_for_the_patches_of_a_model(tmp_path, encoder: Encoder):
    tissue = specks(0, mpp=0.97, levels=(0.97, 4.02))
    file = store(tmp_path / "a.h5", lay(tissue, LADDER), LADDER, encoder.spec)
    spec = file.encoders[0]
    file.check(spec, SlideSettings((2.5, 10.0), 16))
    with pytest.raises(MixedFeaturesError, match=r"cannot be used at 2.5x alone"):
        file.check(spec, SlideSettings((2.5,), 16))
    with pytest.raises(MixedFeaturesError, match=r"slide.roots descendants, and now it is share"):
        file.check(spec, SlideSettings(LADDER, 16, roots="share"))


def test_at_one_magnification_features_of_either_rule_can_be_used(tmp_path, encoder: Encoder):
    grid = lay(specks(0), (10.0,))
    file = store(tmp_path / "a.h5", grid, (10.0,), encoder.spec)
    file.check(file.encoders, SlideSettings((10.0,), 16, roots="share"))


def test_encoded_features_of_a_subset_equal_live_ones(tmp_path, encoder: Encoder):
    pixels = np.full((300, 400, 3), 245, dtype=np.uint8)
    pixels[90:130, 60:300] = pixels[160:290, 340:370] = (200, 90, 150)
    slide = slide_from_array(pixels, mpp=1.0)
    ladder = SlideSettings(LADDER, 16)
    extract_slide(slide, ladder.grid(slide), encoder, tmp_path / "a.h5", settings=ladder)
    file = FeatureFile(tmp_path / "a.h5")
    for some in subsets(LADDER):
        stored, live = file.bag(some), live_bag(slide, SlideSettings(some, 16).grid(slide), encoder)
        assert torch.allclose(stored.features(), live.features(), rtol=1e-3, atol=1e-3)
        assert stored.valid.tolist() == live.valid.tolist()
