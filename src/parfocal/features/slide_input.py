"""What a model is called with for one slide, and where the patches it visits lie.

`BagInput` holds a bag of features, `PixelInput` a source of pixels. Code that runs models handles
both through the protocol `SlideInput`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from parfocal.bag import Bag, ModelInput, StoredBag
from parfocal.cells import Cells
from parfocal.cost import CostMeter
from parfocal.features.pixels import SlidePixels
from parfocal.grid import ANY_TISSUE, PatchGrid, Reach
from parfocal.prediction import Look, Places


@runtime_checkable
class SlideInput(Protocol):
    """The input of a model for one slide."""

    @property
    def model_input(self) -> ModelInput:
        """Bag or pixel source that the model is called with, or those of a patient's slides."""

    @property
    def cost_meter(self) -> CostMeter:
        """Cost of what has been read and encoded."""

    def locate(self, looks: Sequence[Look]) -> tuple[Look, ...]:
        """Add the places of the patches to a prediction's looks; drop patches that do not exist."""

    @property
    def sharpest(self) -> "SharpestPatches | None":
        """Patches at the highest magnification; None if unknown."""

    @property
    def covariates(self) -> Float[Tensor, " v"] | None:
        """Clinical covariates as numbers; None for a model without them."""


@dataclass(frozen=True)
class SharpestPatches:
    """The number of patches of a slide at the highest magnification of a model.

    Args:
        mpp: resolution, in µm per pixel.
        patches: number of patches that pass the tissue test.
        descendants: number of existing patches inside a patch kept at the lowest magnification.
    """

    mpp: float
    patches: int
    descendants: int


@dataclass(frozen=True)
class BagInput:
    """A slide as a bag of features.

    Args:
        model_input: bag at the lowest magnification of the model.
        grid: patches of the slide. For stored features it may have more magnifications than the
            model uses.
        steps: step of the grid for each magnification of the bag.
        cost_meter: cost of what has been read and encoded; stays empty for stored features.
        placed: whether the places of the patches on the slide are known; some tools do not store
            them.
        macs_per_patch: multiply-accumulates of encoding a patch of each magnification, None where
            unknown; empty for stored features.
        covariates: clinical covariates as numbers; None for a model without them.
    """

    model_input: Bag
    grid: PatchGrid
    steps: tuple[int, ...]
    cost_meter: CostMeter
    placed: bool = True
    macs_per_patch: tuple[int | None, ...] = ()
    covariates: Float[Tensor, " v"] | None = None

    def locate(self, looks: Sequence[Look]) -> tuple[Look, ...]:
        """Add the places of the patches to a prediction's looks; drop patches that do not exist.

        Args:
            looks: looks of a trained model, in which each row is one patch.
        """
        located: list[Look] = []
        for step, look in zip(self.steps, looks, strict=False):
            exists = torch.from_numpy(self.grid.valid(step, look.rows.cpu().numpy()))
            existing = _filter_rows(look, exists)
            parents = None
            if located:
                previous = self.steps[len(located) - 1]
                children = self.grid.counts[step] // self.grid.counts[previous]
                parents = _find_positions(existing.rows // children, located[-1].rows)
            places = self._places(step, existing.rows, parents)
            located.append(replace(existing, places=places))
        return tuple(located)

    @property
    def sharpest(self) -> SharpestPatches | None:
        """Patches at the highest magnification; None if the grid has a higher one."""
        if self.steps[-1] != len(self.grid.mpps) - 1:
            return None
        descendants = int(np.count_nonzero(self.grid.valid(self.steps[-1])))
        return SharpestPatches(self.grid.mpps[-1], self.grid.sharpest_patches, descendants)

    @property
    def reach(self) -> Reach | None:
        """Tissue that no patch covers; None if unknown."""
        return self.grid.reach if self.steps[-1] == len(self.grid.mpps) - 1 else None

    @property
    def unreachable(self) -> tuple[float, ...] | None:
        """Share of the tissue without a patch at each magnification; None if unknown."""
        lost = self.grid.unreachable
        if lost is None or self.steps[-1] != len(self.grid.mpps) - 1:
            return None
        return tuple(lost[step] for step in self.steps)

    def _places(
        self, step: int, rows: Int64[Tensor, " n"], parents: Int64[Tensor, " n"] | None
    ) -> Places:
        boxes = [
            (box.x, box.y, box.width, box.height) for box in self.grid.boxes(step, rows.numpy())
        ]
        return Places(
            torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
            torch.full((len(rows),), self.grid.mpps[step], dtype=torch.float64),
            parents,
        )


@dataclass(frozen=True)
class PixelInput:
    """A slide as a source of pixels.

    Args:
        model_input: source of the slide's pixels.
        cells: patches that cover the slide at each magnification of the model.
        cost_meter: cost of what has been read.
        covariates: clinical covariates as numbers; None for a model without them.
    """

    model_input: SlidePixels
    cells: Cells
    cost_meter: CostMeter
    covariates: Float[Tensor, " v"] | None = None

    def locate(self, looks: Sequence[Look]) -> tuple[Look, ...]:
        """Return the looks unchanged; a model that takes pixels adds the places itself."""
        return tuple(looks)

    @property
    def sharpest(self) -> SharpestPatches:
        """Patches with any tissue at the highest magnification."""
        sharpest = self.cells.maps[-1]
        patches = int((self.model_input.tissue(sharpest.boxes) > ANY_TISSUE).sum())
        return SharpestPatches(sharpest.mpp, patches, patches)

    def reach(self, looks: Sequence[Look]) -> Reach:
        """Return the tissue that a model cannot read.

        A model that samples patches lists all that it could sample, which are those with any
        tissue. Any other model can read every part of the slide.

        Args:
            looks: looks of the model's prediction.
        """
        cells = self.cells.boxes
        sampled = [
            look.places.boxes
            for look in looks
            if look.places is not None and look.score_kind == "sampling_probability"
        ]
        boxes = torch.cat(sampled) if sampled else cells
        return self.model_input.reach(boxes, side=float(cells[-1, 2]))


@dataclass(frozen=True)
class NoImage:
    """A slide that is not opened, for a model of covariates alone.

    Args:
        covariates: clinical covariates as numbers.
        model_input: bag without patches.
        cost_meter: cost of running the model.
    """

    covariates: Float[Tensor, " v"] | None = None
    model_input: Bag = field(default_factory=lambda: StoredBag([torch.zeros(0, 0)]))
    cost_meter: CostMeter = field(default_factory=CostMeter)

    def locate(self, looks: Sequence[Look]) -> tuple[Look, ...]:
        """Return the looks, of which there are none."""
        return tuple(looks)

    @property
    def sharpest(self) -> None:
        """None, because the number of patches is unknown."""
        return None


def tissue_reach(slide_input: SlideInput, looks: Sequence[Look]) -> Reach | None:
    """Return the tissue that a model cannot reach; None if unknown.

    Args:
        slide_input: input of the model.
        looks: looks of its prediction.
    """
    if isinstance(slide_input, PixelInput):
        return slide_input.reach(looks)
    return slide_input.reach if isinstance(slide_input, BagInput) else None


def _filter_rows(look: Look, exists: Bool[Tensor, " n"]) -> Look:
    """Return a look without the rows that do not exist."""
    zoom_attention, selected = look.zoom_attention, look.selected
    return replace(
        look,
        rows=look.rows[exists],
        score=look.score[exists],
        zoom_attention=None if zoom_attention is None else zoom_attention[exists],
        selected=None if selected is None else _renumber(selected, exists),
        rounds=None if look.rounds is None else look.rounds[exists],
    )


def _renumber(positions: Int64[Tensor, " k"], exists: Bool[Tensor, " n"]) -> Int64[Tensor, " j"]:
    """Convert positions among all rows to positions among the existing rows."""
    return (exists.cumsum(0) - 1)[positions[exists[positions]]]


def _find_positions(wanted: Int64[Tensor, " n"], rows: Int64[Tensor, " m"]) -> Int64[Tensor, " n"]:
    """Return the position of each wanted row in `rows`."""
    position = {row: index for index, row in enumerate(rows.tolist())}
    return torch.tensor([position[row] for row in wanted.tolist()], dtype=torch.int64)
