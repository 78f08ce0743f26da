"""`roots="share"` lays the patches of version 1.

tests/fixtures/v1/grids.json was written by the last version that had no other rule: for each case
the tissue's seed, the settings, and a hash of the patches and of which of them exist.
"""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from parfocal.grid import PatchGrid
from parfocal.slide.tissue import Tissue

CASES = json.loads((Path(__file__).parents[1] / "fixtures/v1/grids.json").read_text())


def tissue_of(seed: int) -> Tissue:
    """Return the tissue of a case; the order of the draws is that of the script that wrote it."""
    generator = np.random.default_rng(seed)
    width, height = (int(side) for side in generator.integers(900, 5000, 2))
    mpp = float(generator.choice([1.0, 0.2428, 0.97]))
    density = generator.random((height // 60 + 1, width // 60 + 1))
    mask = np.kron(density < float(generator.choice([0.01, 0.05, 0.3])), np.ones((3, 3), bool))
    mask[0, 0] = True
    return Tissue(mask, width * mpp / mask.shape[1], (width, height), mpp, (mpp, 4.01 * mpp))


def lay(case: dict, roots: str) -> PatchGrid:
    rule = {"min_tissue": case["min_tissue"], "children": case["children"], "roots": roots}
    return PatchGrid.over(tissue_of(case["seed"]), case["mpps"], 64, **rule)


def digest(grid: PatchGrid) -> str:
    content = sha256(grid.roots.astype("<i8").tobytes())
    for step in range(len(grid.mpps)):
        content.update(grid.valid(step).tobytes())
        content.update(grid.coords(step).astype("<i8").tobytes())
    return content.hexdigest()


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["seed"]))
def test_the_published_rule_keeps_the_patches_of_version_1(case):
    grid = lay(case, "share")
    assert list(grid.mpps) == case["achieved"]
    assert list(grid.counts) == case["counts"]
    assert grid.sharpest_patches == case["sharpest_patches"]
    assert digest(grid) == case["sha256"]


def test_the_rule_by_descendants_has_other_patches():
    assert sum(digest(lay(case, "descendants")) != case["sha256"] for case in CASES) > 10
