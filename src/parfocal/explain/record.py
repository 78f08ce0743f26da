"""A prediction as a record: the answer, where the model looked, and what that cost.

The JSON of a record is described in docs/formats.md. Maps are drawn from it, so it holds raw
scores and true positions, and needs neither the slide nor the model.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from parfocal.bag import SQUARES, Look
from parfocal.cost import Cost
from parfocal.slide.resolution import magnification_asked

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
OVER_FROM = 1.0005  # a share that is written as more than 100.0%
OVER = "; over 100%, as lower magnifications and the search for tissue count, too"
MAC_UNITS = {"TMAC": 1e12, "GMAC": 1e9, "MMAC": 1e6, "kMAC": 1e3, "MAC": 1}


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
        score_kind: what the score is, see `Look`; "attention" sums to 1 over the regions of a step,
            "probability", that of being looked at, over those of all steps.
        parent: id of the region that was zoomed into to find it; None at the first step.
        selected: whether the model zoomed into it; of those with a probability, whether it was
            looked at.
        order: when it was looked at, counted from 0; None where only a thumbnail of it was.
        zoom_score: the attention that chose what to zoom into; None where none was chosen.
        probabilities: of the labels, after this and all before it were read; None where the model
            answers only in the end.
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
    order: int | None
    zoom_score: float | None = None
    probabilities: dict[str, float] | None = None


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
    """What answered: enough to tell whether two records are of the same model.

    A model of pixels encodes by itself, and has no encoder.
    """

    name: str
    weights_sha256: str
    encoder: str | None
    encoder_weights_sha256: str | None
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
        regions: all that were looked at, or could have been.
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
        shares = [share for share in (cost.share_patches, cost.share_pixels) if share is not None]
        over = OVER if max(shares, default=0.0) >= OVER_FROM else ""
        return (
            f"looked at {sum(cost.patches):,} of {everything.patches:,} patches "
            f"({_percent(cost.share_patches)}), {_percent(cost.share_pixels)} of the pixels, "
            f"{_macs(cost.macs, everything.macs)}, {cost.seconds['total']:.1f} s{over}"
        )

    @property
    def line(self) -> str:
        """The answer and the bill, in a line."""
        return f"{self.slide.id}: {self.label} {self.probabilities[self.label]:.2f} · {self.bill}"

    def magnification_at(self, mpp: float) -> float:
        """Name what was looked at with an mpp: as it was asked for, whatever a slide's pixels are.

        Squares of any size were not asked for by magnification, and have that of their own mpp.
        """
        free = any(region.score_kind in SQUARES for region in self.regions[:1])
        return magnification_asked(mpp, () if free else self.model.magnifications)

    def counted_most(self, count: int) -> list[Region]:
        """Give the sharp regions that counted most.

        Those of the highest scores; of a running answer, those that raised it most.
        """
        looked = [region for region in self.regions if region.order is not None]
        sharp = [region for region in looked if region.step == len(self.mpps) - 1]
        if not any(region.score_kind == "running" for region in sharp):
            return sorted(sharp, key=lambda region: -region.score)[:count]
        before = [1 / len(self.probabilities), *(region.score for region in sharp)]
        rises = {region.id: region.score - b for region, b in zip(sharp, before, strict=False)}
        return sorted(sharp, key=lambda region: -rises[region.id])[:count]

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

    def to_frame(self) -> "pd.DataFrame":
        """Give the regions as a pandas data frame, a row each, by order of looking."""
        from parfocal.explain.notebook import frame_of  # noqa: PLC0415  # it needs this file

        return frame_of(self)

    def _repr_html_(self) -> str:
        """Show the answer, and the slide with what was looked at, in a notebook."""
        from parfocal.explain.notebook import html_of  # noqa: PLC0415  # it needs this file

        return html_of(self)

    def to_json(self) -> str:
        """Give the record as text."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def _step(self, step: int) -> dict[str, float]:
        patches = sum(each.step == step and each.order is not None for each in self.regions)
        mpp = self.mpps[step]
        return {"mpp": mpp, "magnification": self.magnification_at(mpp), "patches": patches}


def regions_of(looks: Sequence[Look]) -> Iterator[Region]:
    """Tell where a model looked.

    Args:
        looks: of a trained model, with their places; one a step.
    """
    turn = count()
    for step, look in enumerate(looks):
        places = look.places
        assert places is not None
        above = None if step == 0 else looks[step - 1].rows
        none = [None] * len(look.rows)
        parents = (
            none if places.parents is None or above is None else above[places.parents].tolist()
        )
        orders = [next(turn) for _ in none] if places.order is None else places.order.tolist()
        zoom_attention = none if look.zoom_attention is None else look.zoom_attention.tolist()
        selected = set() if look.selected is None else set(look.selected.tolist())
        scores, boxes = look.attention.tolist(), places.boxes.tolist()
        for place, (row, mpp) in enumerate(
            zip(look.rows.tolist(), places.mpps.tolist(), strict=True)
        ):
            x, y, width, height = boxes[place]
            yield Region(
                id=f"{step}-{row}",
                step=step,
                x=x,
                y=y,
                width=width,
                height=height,
                mpp=mpp,
                score=scores[place],
                score_kind=look.score_kind,
                parent=None if parents[place] is None else f"{step - 1}-{parents[place]}",
                selected=place in selected,
                order=None if orders[place] < 0 else orders[place],
                zoom_score=zoom_attention[place],
            )


def with_running_probabilities(
    regions: Sequence[Region], running: Sequence[Mapping[str, float]]
) -> Iterator[Region]:
    """Put down what a model answered after each of the last regions that it looked at.

    Args:
        regions: all of them.
        running: probabilities by label, in the order of looking.
    """
    first = sum(region.order is not None for region in regions) - len(running)
    for region in regions:
        turn = -1 if region.order is None else region.order - first
        yield replace(region, probabilities=dict(running[turn])) if turn >= 0 else region


def mpps_of(looks: Sequence[Look]) -> tuple[float, ...]:
    """Give the microns per pixel of each look; the median where its regions differ."""
    return tuple(look.places.mpps.median().item() for look in looks if look.places is not None)


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

    >>> _macs(1_234_000_000_000, 16_400_000_000_000), _macs(74_600_000, 2_500_400_000), _macs(6, 0)
    ('1.23 of 16.4 TMAC', '74.6 of 2,500 MMAC', '6 of 0 MAC')
    """
    unit = next((unit for unit, size in MAC_UNITS.items() if ours >= size), "MAC")
    counts = [macs / MAC_UNITS[unit] for macs in (ours, everything)]
    told = [f"{count:.3g}" if count < 999.5 else f"{count:,.0f}" for count in counts]
    return f"{' of '.join(told)} {unit}"
