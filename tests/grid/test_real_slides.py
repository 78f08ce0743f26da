"""On real slides, zooming reaches exactly the patches that exhaustive processing encodes."""

from pathlib import Path

import numpy as np
import pytest

from parfocal.features.opener import PixelOpener
from parfocal.grid import PatchGrid, UnavailableMagnificationError
from parfocal.settings import load_settings
from parfocal.settings.load import recipe_names
from parfocal.slide.errors import SlideError
from parfocal.slide.resolution import mpp_of
from parfocal.slide.slide import open_slide
from parfocal.slide.tissue import Tissue, find_tissue

DATA = Path(__file__).parents[2] / "../shared/data"
SLIDES = sorted(
    path
    for folder in ("prostate", "slides")
    for path in (DATA / folder).glob("*.*")
    if path.suffix not in (".csv", ".md")
)
# Slides that record no resolution, or a wrong one.
MPPS = {"tcga-cr-7395-01a-01-ts1": 0.5, "CMU-1-Small-Region.jpeg": 0.499}
UNUSABLE = {"test3-DAPI-2-387"}  # fluorescence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SLIDES, reason="the collection of real slides is not available"),
]


@pytest.fixture(scope="module", params=SLIDES, ids=lambda path: path.name)
def tissue(request: pytest.FixtureRequest) -> Tissue:
    path: Path = request.param
    if path.stem in UNUSABLE:
        pytest.skip("not a stained slide")
    with open_slide(path, mpp=MPPS.get(path.stem)) as slide:
        return find_tissue(slide)


def reached_by_zooming(grid: PatchGrid) -> set[tuple[int, int]]:
    """Follow the children of existing patches from the lowest magnification to the highest."""
    rows = np.flatnonzero(grid.valid(0))
    for step, ratio in enumerate(grid.ratios):
        children = (rows[:, None] * ratio**2 + np.arange(ratio**2)).ravel()
        rows = children[grid.valid(step + 1, children)]
    return set(map(tuple, grid.cells(len(grid.mpps) - 1, rows).tolist()))


def encoded_exhaustively(tissue: Tissue, grid: PatchGrid, min_tissue: float) -> set:
    """Return the squares of the highest magnification with enough tissue, without a grid."""
    side = grid.side_px(len(grid.mpps) - 1)
    width, height = (int(np.ceil(px / side)) for px in tissue.slide_size)
    row, column = np.divmod(np.arange(width * height), width)
    share = tissue.fraction(column * side, row * side, side)
    enough = share >= min_tissue * (1 - 1e-6)
    kept = enough if enough.any() else share > 1e-7
    return set(zip(column[kept].tolist(), row[kept].tolist(), strict=True))


@pytest.mark.parametrize("recipe", recipe_names())
def test_zooming_reaches_what_exhaustive_processing_encodes(tissue, recipe):
    settings = load_settings(recipe).slide
    try:
        grid = PatchGrid.over(
            tissue,
            [mpp_of(magnification) for magnification in settings.magnifications],
            settings.patch_size,
            min_tissue=settings.min_tissue,
            children=settings.children,
            roots=settings.roots,
        )
    except UnavailableMagnificationError:
        pytest.skip("the slide does not have the magnifications")
    assert reached_by_zooming(grid) == encoded_exhaustively(tissue, grid, settings.min_tissue)
    assert grid.reach.unreachable == 0


@pytest.mark.parametrize("path", SLIDES, ids=lambda path: path.name)
def test_the_cells_of_models_of_pixels_cover_all_tissue(path):
    settings = load_settings("jsma-single").slide
    if path.stem in UNUSABLE:
        pytest.skip("not a stained slide")
    with open_slide(path, mpp=MPPS.get(path.stem)) as slide:
        try:
            with PixelOpener(settings).open(slide) as slide_input:
                reach = slide_input.reach(())
        except UnavailableMagnificationError:
            pytest.skip("the slide does not have the magnification")
        except SlideError as error:
            pytest.fail(str(error))
    assert (reach.unreachable, reach.below_min_tissue) == (0, 0)
    assert reach.squares.reachable
    assert not reach.squares.out_of_reach
