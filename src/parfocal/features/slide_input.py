"""A slide that a model can be asked about: what it is given, and where what it saw lies.

Bags and pixel sources are told apart here, and nowhere after: `locate` gives looks that know
their places, whatever the model was given.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from parfocal.bag import Bag, Look, PixelSource, Places
from parfocal.cells import Cells, lay_cells
from parfocal.cost import CostMeter
from parfocal.encoders.encoder import Encoder
from parfocal.features.header import SlideSettings
from parfocal.features.live import live_bag
from parfocal.features.pixels import SlidePixels
from parfocal.grid import ANY_TISSUE, PatchGrid
from parfocal.slide.slide import Slide
from parfocal.slide.tissue import find_tissue


@runtime_checkable
class SlideInput(Protocol):
    """A slide that a model can be asked about."""

    @property
    def given(self) -> Bag | PixelSource:
        """What a model is called with."""

    @property
    def bill(self) -> CostMeter:
        """What has been read and encoded."""

    def locate(self, looks: Sequence[Look]) -> tuple[Look, ...]:
        """Give looks with their places, and without what does not exist."""

    @property
    def sharpest(self) -> "Sharpest | None":
        """What there is to see at the sharpest magnification; None where that is unknown."""


@dataclass(frozen=True)
class Sharpest:
    """What there is to see at the sharpest magnification a model looks at.

    Args:
        mpp: microns per pixel.
        patches: with tissue.
        descendants: of the coarse patches that were kept, those that exist there.
    """

    mpp: float
    patches: int
    descendants: int


@dataclass(frozen=True)
class BagInput:
    """A slide's bag, where its patches lie, and what it costs.

    Args:
        given: the bag, at the lowest magnification asked for.
        grid: its patches; of stored features it may hold more magnifications.
        steps: of the grid, one for each magnification of the bag.
        bill: what has been read and encoded; nothing, of stored features.
    """

    given: Bag
    grid: PatchGrid
    steps: tuple[int, ...]
    bill: CostMeter

    def locate(self, looks: Sequence[Look]) -> tuple[Look, ...]:
        """Find the patches of looks on the grid, and leave out those that do not exist.

        Args:
            looks: of a trained model, so that each row is one patch.
        """
        located: list[Look] = []
        for step, look in zip(self.steps, looks, strict=False):
            exists = torch.from_numpy(self.grid.valid(step, look.rows.cpu().numpy()))
            kept = _kept(look, exists)
            parents = None
            if located:
                above = self.steps[len(located) - 1]
                children = self.grid.counts[step] // self.grid.counts[above]
                parents = _positions(kept.rows // children, located[-1].rows)
            located.append(replace(kept, places=self._places(step, kept.rows, parents)))
        return tuple(located)

    @property
    def sharpest(self) -> Sharpest | None:
        """What there is to see; unknown where the grid goes on to a sharper magnification."""
        if self.steps[-1] != len(self.grid.mpps) - 1:
            return None
        descendants = int(np.count_nonzero(self.grid.valid(self.steps[-1])))
        return Sharpest(self.grid.mpps[-1], self.grid.sharpest_patches, descendants)

    def _places(
        self, step: int, rows: Int64[Tensor, " n"], parents: Int64[Tensor, " n"] | None
    ) -> Places:
        corners = [
            (box.x, box.y, box.width, box.height) for box in self.grid.boxes(step, rows.numpy())
        ]
        boxes = torch.tensor(corners, dtype=torch.float64).reshape(-1, 4)
        return Places(
            boxes, torch.full((len(rows),), self.grid.mpps[step], dtype=torch.float64), parents
        )


@dataclass(frozen=True)
class PixelInput:
    """A slide's pixels, and what they cost.

    Args:
        given: the pixels.
        settings: which patches there are.
        skip_unavailable_magnifications: whether magnifications that do not fit the slide are left out.
        bill: what has been read.
    """

    given: SlidePixels
    settings: SlideSettings
    skip_unavailable_magnifications: bool
    bill: CostMeter

    def locate(self, looks: Sequence[Look]) -> tuple[Look, ...]:
        """Give the looks as they are: a model of pixels knows where it looked."""
        return tuple(looks)

    @property
    def sharpest(self) -> Sharpest:
        """What there is to see: the patches with tissue that cover the slide."""
        cells = cells_of(
            self.given,
            self.settings,
            skip_unavailable_magnifications=self.skip_unavailable_magnifications,
        ).maps[-1]
        patches = int((self.given.tissue(cells.boxes) > ANY_TISSUE).sum())
        return Sharpest(cells.mpp, patches, patches)


@contextmanager
def opened(
    slide: Slide,
    settings: SlideSettings,
    encoder: Encoder | None,
    *,
    skip_unavailable_magnifications: bool = False,
) -> Iterator[SlideInput]:
    """Open a slide for a model: a bag for the features of an encoder, else a source of pixels.

    Args:
        slide: to read from, with its bill.
        settings: which patches there are.
        encoder: of patches; None for a model that encodes by itself.
        skip_unavailable_magnifications: whether magnifications that do not fit the slide are left out.

    Raises:
        SlideError: there is no tissue, or the magnifications do not fit the slide.
    """
    if encoder is not None:
        grid = settings.grid(slide)
        steps = tuple(range(len(grid.mpps)))
        yield BagInput(live_bag(slide, grid, encoder), grid, steps, slide.bill)
        return
    with closing(SlidePixels(slide, find_tissue(slide, method=settings.tissue))) as pixels:
        cells_of(
            pixels, settings, skip_unavailable_magnifications=skip_unavailable_magnifications
        )  # refused at once, and not by the bill
        yield PixelInput(pixels, settings, skip_unavailable_magnifications, slide.bill)


def cells_of(
    source: PixelSource, settings: SlideSettings, *, skip_unavailable_magnifications: bool
) -> Cells:
    """Lay cells over a slide at the magnifications asked for.

    Raises:
        UnfitError: they do not fit the slide.
    """
    return lay_cells(
        source.size,
        source.mpp,
        magnifications=settings.magnifications,
        patch_size=settings.patch_size,
        skip_unavailable_magnifications=skip_unavailable_magnifications,
    )


def _kept(look: Look, exists: Bool[Tensor, " n"]) -> Look:
    """Leave rows out of a look."""
    zoom_attention, selected = look.zoom_attention, look.selected
    return replace(
        look,
        rows=look.rows[exists],
        attention=look.attention[exists],
        zoom_attention=None if zoom_attention is None else zoom_attention[exists],
        selected=None if selected is None else _renumbered(selected, exists),
    )


def _renumbered(positions: Int64[Tensor, " k"], kept: Bool[Tensor, " n"]) -> Int64[Tensor, " j"]:
    """Give positions among those kept; what is not kept is left out."""
    return (kept.cumsum(0) - 1)[positions[kept[positions]]]


def _positions(wanted: Int64[Tensor, " n"], rows: Int64[Tensor, " m"]) -> Int64[Tensor, " n"]:
    """Find where rows stand in a look."""
    place = {row: at for at, row in enumerate(rows.tolist())}
    return torch.tensor([place[row] for row in wanted.tolist()], dtype=torch.int64)
