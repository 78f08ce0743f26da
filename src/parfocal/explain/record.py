"""The record of a prediction: the class probabilities, the patches visited, and the cost.

docs/formats.md describes its JSON. A record holds raw scores and positions in level-0 pixels, so
that maps can be drawn from it without the model.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from parfocal.cost import Cost
from parfocal.grid import Reach
from parfocal.prediction import OFF_GRID, ScoreKind
from parfocal.slide.resolution import requested_magnification
from parfocal.slide.sources.url import is_url

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 2
CLASSIFICATION = "classification"  # the task of records that name none
ABOVE_ALL = 1.0005  # the smallest share that is printed as more than 100.0%
NO_PIXELS = "no pixels read"
ABOVE_ALL_NOTE = "; more than 100% because lower magnifications and tissue detection are included"
NOTHING_TO_SKIP = "nothing to skip on this slide"
BYTE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
MAC_UNITS = {"TMAC": 1e12, "GMAC": 1e9, "MMAC": 1e6, "kMAC": 1e3, "MAC": 1}


@dataclass(frozen=True)
class Region:
    """A patch of a prediction, in level-0 pixels.

    Args:
        id: step and row in the grid, such as "1-36".
        step: index of the magnification; 0 is the lowest.
        x: left edge.
        y: top edge.
        width: width of the patch, which may reach beyond the scan.
        height: height of the patch, which may reach beyond the scan.
        mpp: resolution at which the patch was read, in µm per pixel.
        score: how much the patch counted.
        score_kind: meaning of `score`, see `parfocal.prediction.Look`.
        parent: id of the patch that was zoomed into to find this one; None at the first step.
        selected: whether the model zoomed into the patch; for a model that samples patches,
            whether the patch was sampled.
        order: position in the order of visits, from 0; None if the patch was never read at its
            own resolution, but only weighed on a thumbnail.
        zoom_attention: attention by which patches to zoom into were chosen; None if none were.
        probabilities: class probabilities after this patch and all before it were read; None for
            a model that predicts only once. For a model that visits in rounds, the last patch of
            each round has them.
        round: the round in which the patch was visited, from 0; None without rounds.
    """

    id: str
    step: int
    x: float
    y: float
    width: float
    height: float
    mpp: float
    score: float
    score_kind: ScoreKind
    parent: str | None
    selected: bool
    order: int | None
    zoom_attention: float | None = None
    probabilities: dict[str, float] | None = None
    round: int | None = None

    @property
    def visited(self) -> bool:
        """Whether the model read the patch at its own resolution."""
        return self.order is not None


@dataclass(frozen=True)
class SlideFacts:
    """The slide of a prediction.

    Args:
        id: name of the file without its extension.
        path: absolute path of the file; None for a slide in memory.
        fingerprint: hash that identifies the file.
        size: width and height in level-0 pixels.
        mpp: µm per level-0 pixel.
        mpp_source: where `mpp` comes from: "given" or "file: <property>".
        tissue_fingerprint: hash of the tissue file and of the excluded classes; empty if the tissue
            was found.
    """

    id: str
    path: str | None
    fingerprint: str
    size: tuple[int, int]
    mpp: float
    mpp_source: str
    tissue_fingerprint: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """The model of a prediction.

    Args:
        name: name of the model.
        weights_sha256: hash of its weights.
        encoder: name of the patch encoder; None for a model that encodes patches itself.
        encoder_weights_sha256: hash of the encoder's weights.
        magnifications: magnifications as configured, lowest first.
        patch_size: side of a patch in pixels.
        parfocal_version: version of parfocal that made the prediction.
        settings_sha256: hash of all settings that the prediction depends on; None in files of
            version 1.
    """

    name: str
    weights_sha256: str
    encoder: str | None
    encoder_weights_sha256: str | None
    magnifications: tuple[float, ...]
    patch_size: int
    parfocal_version: str
    settings_sha256: str | None = None


@dataclass(frozen=True)
class RoundFacts:
    """The answer of a model after one round of visits.

    Args:
        patches: number of patches visited so far.
        probabilities: class probabilities by label; empty for a task without classes.
    """

    patches: int
    probabilities: dict[str, float]


@dataclass(frozen=True)
class BudgetFacts:
    """The budget of a prediction.

    Args:
        limit: the budget, such as "share=5%", or "settled".
        met: whether it covered at least the lowest magnification; None for "settled".
    """

    limit: str
    met: bool | None


@dataclass(frozen=True)
class PatientFacts:
    """The patient whose prediction a slide is part of.

    Args:
        id: the patient.
        slides: ids of all slides of the prediction, in order.
        share: part of the patient's attention at the lowest magnification that lies on this slide.
    """

    id: str
    slides: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class ThresholdFacts:
    """The threshold that decides the label.

    Args:
        label: the class that is predicted if its probability is at or above the threshold.
        value: the threshold.
        rule: how it was chosen, such as "youden"; a number if it was given.
    """

    label: str
    value: float
    rule: str


@dataclass(frozen=True)
class MemberFacts:
    """The answer of one of several models, such as that of a fold, and its part of the cost.

    Args:
        name: name of the model, such as "fold-0".
        weights_sha256: hash of its weights.
        probabilities: probability of each class, by label.
        outputs: other predicted numbers by name.
        patches: number of patches that it visited at each step.
        added: what it added to the cost of the models before it, which had read and encoded some
            of its patches.
        stop_reason: why it visited no more patches.
    """

    name: str
    weights_sha256: str
    probabilities: dict[str, float]
    outputs: dict[str, float]
    patches: tuple[int, ...]
    added: Cost
    stop_reason: str


@dataclass(frozen=True)
class PredictionRecord:
    """A model's prediction for one slide, with the patches visited and the cost.

    Args:
        slide: the slide.
        model: the model.
        probabilities: probability of each class, by label; they sum to 1. Empty for a task without
            classes.
        stop_reason: why the model visited no more patches.
        mpps: µm per pixel of each step, lowest magnification first.
        regions: patches that were visited, or weighed on a thumbnail.
        cost: measured cost; `cost.exhaustive` is not None.
        reach: tissue that the model cannot reach; None in records of version 1.
        notes: sentences on what is unusual about the slide file.
        budget: how much of the slide the model was to visit; None for what it visits by itself.
        rounds: the answers after each round; empty if the model did not visit in rounds.
        patient: the patient whose prediction this is, with `probabilities` of the patient and
            scores that sum to 1 over all slides; None for the prediction of a slide.
        covariates: clinical values that the model used, by column, as they were given.
        task: what is predicted, a name of `parfocal.tasks.TASKS`.
        outputs: other predicted numbers by name, such as a risk, for a task without classes.
        predicted: what is predicted, as a short text, for a task without classes.
        threshold: the threshold that decides which of two classes is predicted; None for the most
            probable class.
        members: the answers of several models, such as those of the folds, whose mean
            `probabilities` and `outputs` are; empty for one model.
        spread: standard deviation of each probability or output over the members, by name.
    """

    slide: SlideFacts
    model: ModelFacts
    probabilities: dict[str, float]
    stop_reason: str
    mpps: tuple[float, ...]
    regions: tuple[Region, ...]
    cost: Cost
    reach: Reach | None = None
    notes: tuple[str, ...] = ()
    budget: BudgetFacts | None = None
    rounds: tuple[RoundFacts, ...] = ()
    patient: PatientFacts | None = None
    covariates: dict[str, str] = field(default_factory=dict)
    task: str = CLASSIFICATION
    outputs: dict[str, float] = field(default_factory=dict)
    predicted: str = ""
    threshold: ThresholdFacts | None = None
    members: tuple[MemberFacts, ...] = ()
    spread: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The most probable class, or that of the threshold.

        For a task without classes, what is predicted as text.
        """
        if not self.probabilities:
            return self.predicted
        threshold = self.threshold
        if threshold is not None and len(self.probabilities) == 2:
            (other,) = self.probabilities.keys() - {threshold.label}
            reached = self.probabilities[threshold.label] >= threshold.value
            return threshold.label if reached else other
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def answer(self) -> str:
        """The predicted class with its probability, or what else is predicted."""
        if not self.probabilities:
            return f"{self.predicted}{self._spread_text()}"
        text = f"{self.label} {self.probabilities[self.label]:.2f}{self._spread_text(self.label)}"
        if self.threshold is not None:
            text += f" (threshold {self.threshold.label} {self.threshold.value:.2f})"
        return text

    def _spread_text(self, name: str | None = None) -> str:
        """Return the spread of a number over the members as text; empty for one model."""
        if not self.spread:
            return ""
        spread = next(iter(self.spread.values())) if name is None else self.spread[name]
        return f" ± {spread:.2g} over {len(self.members)} models"

    @property
    def bill(self) -> str:
        """The cost in one line, compared with encoding every tissue patch; and the reach."""
        cost, exhaustive = self.cost, self.cost.exhaustive
        assert exhaustive is not None
        shares = [share for share in (cost.share_patches, cost.share_pixels) if share is not None]
        note = ABOVE_ALL_NOTE if max(shares, default=0.0) >= ABOVE_ALL else ""
        if self.nothing_to_skip is not None:
            note = f"; {self.nothing_to_skip}"
        if self.budget is not None and self.budget.met is False:
            note = f"; the budget {self.budget.limit} was not met"
        lost = "" if self.reach is None else f", {percent_of_tissue(self.reach.unreachable)}"
        return (
            f"visited {sum(cost.patches):,} of {exhaustive.patches:,} patches "
            f"({_percent(cost.share_patches)}), {self._pixels}, "
            f"{_macs(cost.macs, exhaustive.macs)}, {cost.seconds['total']:.1f} s"
            f"{self._bytes}{lost}{note}"
        )

    @property
    def _pixels(self) -> str:
        """The pixels read, as part of the bill; none with stored features."""
        cost = self.cost
        if cost.share_pixels is None:
            return f"{cost.pixels_decoded:,} pixels read" if cost.pixels_decoded else NO_PIXELS
        return f"{_percent(cost.share_pixels)} of the pixels"

    @property
    def _bytes(self) -> str:
        """The bytes read of the file, as part of the bill; of a remote slide, the requests."""
        cost, share = self.cost, self.cost.share_bytes
        if share is None or cost.bytes_read is None or cost.file_bytes is None:
            return ""
        unit, size = next((u for u in BYTE_UNITS if cost.file_bytes >= u[1]), BYTE_UNITS[-1])
        counts = " of ".join(f"{n / size:.3g}" for n in (cost.bytes_read, cost.file_bytes))
        is_far = self.slide.path is not None and is_url(self.slide.path)
        noun = "request" if cost.requests == 1 else "requests"
        requests = f" in {cost.requests:,} {noun}" if is_far and cost.requests else ""
        twice = ", parts of it more than once" if share >= ABOVE_ALL else ""
        return f", read {counts} {unit} ({_percent(share)}{twice}){requests}"

    @property
    def nothing_to_skip(self) -> str | None:
        """Why zooming saves nothing on this slide, as text; None if it saves, or is not done."""
        zoomed = [region for region in self.regions if region.selected]
        exhaustive, lowest = self.cost.exhaustive, self.regions_at(0)
        if not zoomed or len(self.mpps) == 1 or exhaustive is None:
            return None
        if sum(self.cost.patches) >= exhaustive.patches:
            return (
                f"{NOTHING_TO_SKIP}: encoding all {exhaustive.patches:,} patches at "
                f"{exhaustive.magnification:g}x costs no more"
            )
        if zoomed[0].score_kind != "attention" or not all(region.selected for region in lowest):
            return None
        magnification = self.magnification_at(self.mpps[0])
        return f"{NOTHING_TO_SKIP} at {magnification:g}x: all {len(lowest):,} patches are selected"

    @property
    def summary(self) -> str:
        """The slide, the predicted class, its probability and the bill, in one line."""
        return f"{self.slide.id}: {self.answer} · {self.bill}"

    def magnification_at(self, mpp: float) -> float:
        """Return the magnification to print for a resolution.

        This is the configured magnification that `mpp` stands for. A model that chooses its own
        squares has no configured ones, so for it the magnification follows from `mpp`.
        """
        off_grid = any(region.score_kind in OFF_GRID for region in self.regions[:1])
        return requested_magnification(mpp, () if off_grid else self.model.magnifications)

    def regions_at(self, step: int) -> list[Region]:
        """Return the regions of one step."""
        return [region for region in self.regions if region.step == step]

    def top_regions(self, count: int) -> list[Region]:
        """Return the visited regions of the highest magnification that counted most.

        Regions are ranked by score. If the score is the class probability after each patch, they
        are ranked by how much they raised it.
        """
        last = [region for region in self.regions_at(len(self.mpps) - 1) if region.visited]
        if not has_class_probabilities(last):
            return sorted(last, key=lambda region: -region.score)[:count]
        before = [1 / len(self.probabilities), *(region.score for region in last)]
        rises = {region.id: region.score - b for region, b in zip(last, before, strict=False)}
        return sorted(last, key=lambda region: -rises[region.id])[:count]

    def to_dict(self) -> dict[str, object]:
        """Return the content of the JSON file."""
        shares = {
            "share_patches": self.cost.share_patches,
            "share_pixels": self.cost.share_pixels,
            "share_macs": self.cost.share_macs,
            "share_bytes": self.cost.share_bytes,
        }
        return {
            "format_version": FORMAT_VERSION,
            "slide": asdict(self.slide),
            "model": asdict(self.model),
            "prediction": {"label": self.label, "probabilities": self.probabilities, **self._task},
            "stop_reason": self.stop_reason,
            "steps": [self._step(step) for step in range(len(self.mpps))],
            "regions": [asdict(region) for region in self.regions],
            "cost": asdict(self.cost) | shares,
            "reach": None if self.reach is None else asdict(self.reach),
            "nothing_to_skip": self.nothing_to_skip,
            "notes": list(self.notes),
            "budget": None if self.budget is None else asdict(self.budget),
            "rounds": [asdict(each) for each in self.rounds],
            **({} if self.patient is None else {"patient": asdict(self.patient)}),
            **({"covariates": self.covariates} if self.covariates else {}),
            **({} if self.threshold is None else {"threshold": asdict(self.threshold)}),
            **self._members,
        }

    @property
    def _members(self) -> dict[str, object]:
        """The keys of a prediction by several models."""
        if not self.members:
            return {}
        return {"members": [asdict(each) for each in self.members], "spread": self.spread}

    @property
    def _task(self) -> dict[str, object]:
        """The keys of the prediction of another task than classification."""
        if self.task == CLASSIFICATION:
            return {}
        return {"task": self.task, "outputs": self.outputs}

    def to_json(self) -> str:
        """Return the text of the JSON file."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def to_frame(self) -> "pd.DataFrame":
        """Return the regions as a pandas data frame, one row per region, in the order of visits.

        Raises:
            ImportError: pandas is not installed.
        """
        from parfocal.explain.notebook import to_frame  # noqa: PLC0415  # imports this module

        return to_frame(self)

    def _repr_html_(self) -> str:
        """Return HTML with the prediction and the slide, for notebooks."""
        from parfocal.explain.notebook import to_html  # noqa: PLC0415  # imports this module

        return to_html(self)

    def _step(self, step: int) -> dict[str, float]:
        visited = sum(region.visited for region in self.regions_at(step))
        mpp = self.mpps[step]
        return {"mpp": mpp, "magnification": self.magnification_at(mpp), "patches": visited}


def has_class_probabilities(regions: Iterable[Region]) -> bool:
    """Return whether the score of any region is the class probability after it was read."""
    return any(region.score_kind == "class_probability" for region in regions)


def percent_of_tissue(unreachable: float) -> str:
    """Return the share of tissue out of reach as text.

    >>> percent_of_tissue(0.0), percent_of_tissue(0.26)
    ('0.0% of the tissue out of reach', '26.0% of the tissue out of reach')
    """
    return f"{_percent(unreachable) if unreachable else '0.0%'} of the tissue out of reach"


def _percent(share: float | None) -> str:
    """Format a share as a percentage with at least two significant digits.

    >>> _percent(0.0749), _percent(0.00042), _percent(1.2)
    ('7.5%', '0.042%', '120.0%')
    """
    if share is None:
        return "not comparable"
    return f"{100 * share:.1f}%" if share >= 0.01 else f"{100 * share:.2g}%"


def _macs(macs: int | None, exhaustive: int | None) -> str:
    """Format two counts of multiply-accumulates in one unit, which is chosen for the first.

    >>> _macs(1_234_000_000_000, 16_400_000_000_000), _macs(74_600_000, 2_500_400_000), _macs(6, 0)
    ('1.23 of 16.4 TMAC', '74.6 of 2,500 MMAC', '6 of 0 MAC')
    """
    if macs is None or exhaustive is None:
        return "MACs unknown"
    unit = next((unit for unit, size in MAC_UNITS.items() if macs >= size), "MAC")
    counts = [count / MAC_UNITS[unit] for count in (macs, exhaustive)]
    texts = [f"{count:.3g}" if count < 999.5 else f"{count:,.0f}" for count in counts]
    return f"{' of '.join(texts)} {unit}"
