"""What a zooming model is expected to encode on a slide, before it has seen it."""

import itertools
from dataclasses import dataclass

import numpy as np

from parfocal.grid.patches import PatchGrid
from parfocal.slide.resolution import magnification_of


@dataclass(frozen=True)
class ExpectedPatches:
    """The patches that a model encodes if it zooms into patches chosen at random.

    Args:
        k: number of patches that the model zooms into at each magnification but the highest.
        patches: number of existing patches at each magnification, lowest first.
        expected: expected number of patches that are encoded at each magnification.
        magnifications: magnifications, to name them.
    """

    k: int
    patches: tuple[int, ...]
    expected: tuple[float, ...]
    magnifications: tuple[float, ...]

    @property
    def total(self) -> float:
        """Expected number of patches that are encoded at all magnifications."""
        return sum(self.expected)

    @property
    def nothing_to_skip(self) -> str | None:
        """Why zooming saves nothing on this slide, as text; None if it saves."""
        lowest, highest = self.magnifications[0], self.magnifications[-1]
        if len(self.patches) == 1:
            return None
        if self.total >= self.patches[-1]:
            return (
                f"nothing to skip on this slide: zooming into {self.k} patches is expected to "
                f"encode {self.total:,.0f}, and it has {self.patches[-1]:,} at {highest:g}x"
            )
        if self.k >= self.patches[0]:
            return (
                f"nothing to skip on this slide at {lowest:g}x: it has {self.patches[0]:,} patches "
                f"there, and {self.k} are selected"
            )
        return None


def expected_patches(
    grid: PatchGrid, k: int, magnifications: tuple[float, ...] | None = None
) -> ExpectedPatches:
    """Compute how many patches a model that zooms into k patches is expected to encode.

    The k patches are assumed to be drawn at random among those that the model sees at a
    magnification, so that each has the mean number of children.

    Args:
        grid: patches of the slide.
        k: number of patches that the model zooms into at each magnification but the highest.
        magnifications: names of the magnifications; None for those of the grid's resolutions.
    """
    patches = tuple(int(np.count_nonzero(grid.valid(step))) for step in range(len(grid.mpps)))
    expected = [float(patches[0])]
    for parents, children in itertools.pairwise(patches):
        expected.append(min(k, expected[-1]) * children / parents)
    names = magnifications or tuple(magnification_of(mpp) for mpp in grid.mpps)
    return ExpectedPatches(k, patches, tuple(expected), names)
