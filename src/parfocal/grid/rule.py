"""The rule by which the patches of a slide exist."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

Children = Literal["all", "tissue"]
Roots = Literal["descendants", "share"]

ANY_TISSUE = 1e-7  # smallest share of tissue that counts; shares are exact to about 1e-10


@dataclass(frozen=True)
class PatchRule:
    """The rule by which a patch exists.

    Args:
        min_tissue: smallest share of tissue in a patch that passes the tissue test; if no patch
            has that much, those with any tissue pass.
        children: "tissue": below the lowest magnification, only patches with enough tissue exist;
            "all": every child of an existing patch does.
        roots: "descendants": a patch exists if one of its descendants at the highest magnification
            passes the tissue test. "share": if it passes the test itself, and so do all its
            ancestors, as in the published ZoomMIL; the lowest magnification is tested first.
    """

    min_tissue: float = 0.1
    children: Children = "tissue"
    roots: Roots = "descendants"

    def min_tissue_met(self, shares: Sequence[Float[np.ndarray, "_ _"]]) -> bool:
        """Return whether any patch that is tested first has the smallest share of tissue.

        Args:
            shares: share of tissue in all patches of each magnification, lowest first.
        """
        tested = shares[-1] if self.roots == "descendants" else shares[0]
        return bool((tested >= self.min_tissue).any())

    def passing(
        self,
        shares: Sequence[Float[np.ndarray, "_ _"]],
        step: int,
        on_scan: Bool[np.ndarray, "h w"],
    ) -> Bool[np.ndarray, "h w"]:
        """Return which patches of one magnification pass the tissue test.

        Args:
            shares: share of tissue in all patches of each magnification, lowest first.
            step: index of the magnification.
            on_scan: whether the patches have a pixel on the scan.
        """
        share = shares[step]
        # With a tolerance for rounding: the share of a patch is the mean of its children's.
        required = self.min_tissue * (1 - 1e-6) if self.min_tissue_met(shares) else ANY_TISSUE
        if self.roots == "share":
            return share >= required
        passing = (share >= required) & on_scan
        # Tissue can lie in nothing but the last half pixel of a scan.
        return passing if passing.any() else share >= ANY_TISSUE


def existing_ancestors(
    passing: Bool[np.ndarray, "h w"], ratios: Sequence[int]
) -> list[Bool[np.ndarray, "_ _"]]:
    """Return, per magnification, which patches have a passing descendant at the highest one.

    Args:
        passing: whether each patch passes at the highest magnification.
        ratios: number of children along one side of a patch, for each magnification but the last.

    Returns:
        One array of rows and columns per magnification, lowest first, the last one `passing`.
    """
    lattices = [passing]
    for ratio in reversed(ratios):
        height, width = lattices[0].shape
        padded = np.pad(lattices[0], ((0, -height % ratio), (0, -width % ratio)))
        blocks = padded.reshape(padded.shape[0] // ratio, ratio, padded.shape[1] // ratio, ratio)
        lattices.insert(0, np.asarray(blocks.any(axis=(1, 3))))
    return lattices
