"""A slide with attention on its cells, and the patches of cells that are being read."""

from concurrent.futures import Future
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from parfocal.bag import PixelSource
from parfocal.cells import Cells
from parfocal.grid import ANY_TISSUE, GridError
from parfocal.prediction import Look, Places


@dataclass(frozen=True)
class PendingPatches:
    """Patches that are being read in the background.

    Args:
        count: number of patches.
        patch_size: side of a patch in pixels.
        pending: for each magnification, positions among the patches and the pixels.
    """

    count: int
    patch_size: int
    pending: tuple[tuple[Int64[Tensor, " _"], Future[Tensor]], ...]

    def images(self) -> Float[Tensor, "k 3 p p"]:
        """Wait for the patches and return them in 0..1, in the order requested."""
        images = torch.empty(self.count, 3, self.patch_size, self.patch_size)
        for at, pixels in self.pending:
            images[at] = pixels.result().float() / 255
        return images


@dataclass(frozen=True)
class AttendedSlide:
    """A slide with attention on its cells.

    Args:
        source: pixels of the slide.
        cells: cells of the slide at all magnifications.
        tissue: whether each cell contains tissue; cells without tissue have no attention.
        attention: attention of each cell; sums to 1.
    """

    source: PixelSource
    cells: Cells
    tissue: Bool[Tensor, " n"]
    attention: Float[Tensor, " n"]

    @property
    def num_available(self) -> int:
        """Number of cells whose attention is above 0."""
        return int(self.attention.count_nonzero())

    def request(self, cells: Int64[Tensor, " k"], patch_size: int) -> PendingPatches:
        """Start to read the patches of cells, and return without waiting.

        Args:
            cells: positions of the cells.
            patch_size: side of a patch in pixels.
        """
        steps, boxes = self.cells.steps[cells.cpu()], self.cells.boxes[cells.cpu()]
        pending = []
        for step in sorted(set(steps.tolist())):
            (at,) = (steps == step).nonzero(as_tuple=True)
            pixels = self.source.request(boxes[at], (patch_size, patch_size), step=step)
            pending.append((at, pixels))
        return PendingPatches(len(cells), patch_size, tuple(pending))

    def looks(self, sampled: Int64[Tensor, " k"]) -> tuple[Look, ...]:
        """Return the cells with tissue of each magnification, and which of them were sampled.

        Args:
            sampled: positions of the sampled cells, in the order sampled.
        """
        attention, tissue = self.attention.detach().cpu(), self.tissue.cpu()
        order = torch.full((len(attention),), -1)
        # Reversed, so that a cell sampled twice keeps its first rank.
        order[sampled.cpu().flip(0)] = torch.arange(len(sampled)).flip(0)
        looks, first = [], 0
        for level in self.cells.maps:
            part = slice(first, first := first + len(level.boxes))
            (rows,) = tissue[part].nonzero(as_tuple=True)
            ranks = order[part][rows]
            mpps = torch.full((len(rows),), level.mpp, dtype=torch.float64)
            places = Places(level.boxes[rows], mpps, order=ranks)
            (selected,) = (ranks >= 0).nonzero(as_tuple=True)
            scores = attention[part][rows]
            looks.append(
                Look(rows, scores, selected, places=places, score_kind="sampling_probability")
            )
        return tuple(looks)


def tissue_mask(source: PixelSource, cells: Cells) -> Bool[Tensor, " n"]:
    """Return whether each cell contains tissue.

    Raises:
        GridError: no cell contains tissue.
    """
    tissue = source.tissue(cells.boxes) > ANY_TISSUE
    if not tissue.any():
        raise GridError(
            "no cell contains tissue; give a file with the tissue, or leave the slide out."
        )
    return tissue
