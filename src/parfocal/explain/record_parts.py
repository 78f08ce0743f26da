"""The parts of the record of a prediction: patches, slide, model, budget, patient and members."""

from collections.abc import Iterable
from dataclasses import dataclass

from parfocal.cost import Cost
from parfocal.prediction import ScoreKind


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
        met: whether the visits stayed within it, those of each model if there are several; None for
            "settled".
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
        rounds: its answers after each round; empty if it did not visit in rounds.
    """

    name: str
    weights_sha256: str
    probabilities: dict[str, float]
    outputs: dict[str, float]
    patches: tuple[int, ...]
    added: Cost
    stop_reason: str
    rounds: tuple[RoundFacts, ...] = ()


def has_class_probabilities(regions: Iterable[Region]) -> bool:
    """Return whether the score of any region is the class probability after it was read."""
    return any(region.score_kind == "class_probability" for region in regions)
