"""A prediction as a record: the answer, where the model looked, and what that cost.

The JSON of a record is described in docs/formats.md. Maps are drawn from it, so it holds raw
scores and true positions, and needs neither the slide nor the model.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count

from parfocal.bag import Look
from parfocal.cost import Cost
from parfocal.grid import PatchGrid
from parfocal.slide.resolution import magnification_of

FORMAT_VERSION = 1
MAC_UNITS = {"TMAC": 1e12, "GMAC": 1e9, "MMAC": 1e6}


@dataclass(frozen=True)
class Region:
    """A patch that was looked at, in level-0 pixels.

    Args:
        id: step and row in the grid, as "1-36".
        step: 0 the lowest magnification.
        x: of the top-left corner.
        y: of the top-left corner.
        width: may reach beyond the scan.
        height: likewise.
        mpp: it was looked at with.
        score: how much it counted.
        score_kind: what the score is; "attention" sums to 1 over the regions of a step.
        parent: id of the region that was zoomed into to find it; None at the first step.
        selected: whether the model zoomed into it.
        order: when it was looked at, counted from 0.
        zoom_score: the attention that chose what to zoom into; None where none was chosen.
    """

    id: str
    step: int
    x: float
    y: float
    width: float
    height: float
    mpp: float
    score: float
    score_kind: str
    parent: str | None
    selected: bool
    order: int
    zoom_score: float | None = None


@dataclass(frozen=True)
class SlideFacts:
    """Which slide it was; `size` is width and height in level-0 pixels."""

    id: str
    path: str | None
    fingerprint: str
    size: tuple[int, int]
    mpp: float
    mpp_source: str


@dataclass(frozen=True)
class ModelFacts:
    """What answered: enough to tell whether two records are of the same model."""

    name: str
    weights_sha256: str
    encoder: str
    encoder_weights_sha256: str
    magnifications: tuple[float, ...]
    patch_size: int
    parfocal: str


@dataclass(frozen=True)
class PredictionRecord:
    """What a model says of one slide, where it looked, and what that cost.

    Args:
        slide: which one.
        model: which one.
        probabilities: by label, summing to 1.
        stop_reason: why the model looked no further.
        mpps: achieved microns per pixel, one a step, coarse to fine.
        regions: all that were looked at, in that order.
        cost: the bill; `exhaustive` is on it.
    """

    slide: SlideFacts
    model: ModelFacts
    probabilities: dict[str, float]
    stop_reason: str
    mpps: tuple[float, ...]
    regions: tuple[Region, ...]
    cost: Cost

    @property
    def label(self) -> str:
        """The most probable class."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def bill(self) -> str:
        """What it cost against looking at everything, in a line."""
        cost, everything = self.cost, self.cost.exhaustive
        assert everything is not None
        return (
            f"looked at {sum(cost.patches):,} of {everything.patches:,} patches "
            f"({_percent(cost.share_patches)}), {_percent(cost.share_pixels)} of the pixels, "
            f"{_macs(cost.macs, everything.macs)}, {cost.seconds['total']:.1f} s"
        )

    @property
    def line(self) -> str:
        """The answer and the bill, in a line."""
        return f"{self.slide.id}: {self.label} {self.probabilities[self.label]:.2f} · {self.bill}"

    def to_dict(self) -> dict[str, object]:
        """Give the record as the JSON has it."""
        shares = {
            "share_patches": self.cost.share_patches,
            "share_pixels": self.cost.share_pixels,
            "share_macs": self.cost.share_macs,
        }
        return {
            "format_version": FORMAT_VERSION,
            "slide": asdict(self.slide),
            "model": asdict(self.model),
            "prediction": {"label": self.label, "probabilities": self.probabilities},
            "stop_reason": self.stop_reason,
            "steps": [self._step(step) for step in range(len(self.mpps))],
            "regions": [asdict(region) for region in self.regions],
            "cost": asdict(self.cost) | shares,
        }

    def to_json(self) -> str:
        """Give the record as text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def _step(self, step: int) -> dict[str, float]:
        patches = sum(region.step == step for region in self.regions)
        mpp = self.mpps[step]
        return {"mpp": mpp, "magnification": magnification_of(mpp), "patches": patches}


def regions_of(grid: PatchGrid, looks: Sequence[Look]) -> Iterator[Region]:
    """Tell where a model looked, in order; patches that do not exist are left out.

    Args:
        grid: over the slide.
        looks: of a trained model, so that each row is one patch; one a step of the grid.
    """
    order = count()
    for step, look in enumerate(looks):
        rows = look.rows.cpu().numpy()
        selected = set() if look.selected is None else set(look.selected.tolist())
        exists, boxes = grid.valid(step, rows), grid.boxes(step, rows)
        aims = None if look.zoom_attention is None else look.zoom_attention.tolist()
        for place, (row, score) in enumerate(zip(rows, look.attention.tolist(), strict=True)):
            if exists[place]:
                yield Region(
                    id=f"{step}-{row}",
                    step=step,
                    x=boxes[place].x,
                    y=boxes[place].y,
                    width=boxes[place].width,
                    height=boxes[place].height,
                    mpp=grid.mpps[step],
                    score=score,
                    score_kind="attention",
                    parent=f"{step - 1}-{row // grid.children(step - 1)}" if step else None,
                    selected=place in selected,
                    order=next(order),
                    zoom_score=None if aims is None else aims[place],
                )


def _percent(share: float | None) -> str:
    """Give a share with the digits that tell.

    >>> _percent(0.0749), _percent(0.00042), _percent(1.2)
    ('7.5%', '0.042%', '120.0%')
    """
    if share is None:
        return "not comparable"
    return f"{100 * share:.1f}%" if share >= 0.01 else f"{100 * share:.2g}%"


def _macs(ours: int, everything: int) -> str:
    """Give two counts in one unit, that of ours, with the digits that tell.

    >>> _macs(1_234_000_000_000, 16_400_000_000_000), _macs(74_600_000, 2_500_400_000)
    ('1.23 of 16.4 TMAC', '74.6 of 2,500 MMAC')
    """
    unit = next((unit for unit, size in MAC_UNITS.items() if ours >= size), "MMAC")
    counts = [macs / MAC_UNITS[unit] for macs in (ours, everything)]
    told = [f"{count:.3g}" if count < 999.5 else f"{count:,.0f}" for count in counts]
    return f"{' of '.join(told)} {unit}"
