"""What a model returns: logits, and which patches it visited.

`Prediction` holds one `Look` for each magnification. A look lists the patches that the model
visited there, how much each counted, and which of them it zoomed into.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ScoreKind = Literal["attention", "sampling_probability", "uniform", "class_probability"]
# The kinds of score of squares of any position and size, which lie on no grid.
OFF_GRID: tuple[ScoreKind, ...] = ("uniform", "class_probability")


@dataclass(frozen=True)
class Places:
    """Positions of the patches of a look, for models that take pixels.

    Args:
        boxes: x, y, width and height of each patch, in level-0 pixels.
        mpps: resolution at which each patch was read, in µm per pixel.
        parents: position, in the previous look, of the patch that was zoomed into to find each
            patch; None if the look has no previous one.
        order: rank of each patch in the order of visits, counted from 0 over all looks; -1 for a
            patch that was not visited. None if all were visited, in the order of the rows.
    """

    boxes: Float[Tensor, "n 4"]
    mpps: Float[Tensor, " n"]
    parents: Int64[Tensor, " n"] | None = None
    order: Int64[Tensor, " n"] | None = None


@dataclass(frozen=True)
class Look:
    """The patches that a model visited at one magnification.

    A model that samples patches lists all it could have sampled; `places.order` marks the visited.

    `score` says how much each patch counted; `score_kind` says what kind of number that is:

    - "attention": attention weights, or what comes closest in a model without attention;
      non-negative, with a sum of 1 over the look.
    - "sampling_probability": probability of sampling each patch; the sum is 1 over all looks.
    - "uniform": the same number, 1/n, for each of n squares.
    - "class_probability": probability of the predicted class after reading each patch, in order.

    Args:
        rows: row of each patch in its magnification, in the nested order of the grid; -1 for a
            mixture of several patches, which occurs only in training.
        score: how much each patch counted.
        selected: positions in `rows` of the patches that were zoomed into; None for the last look.
        zoom_attention: attention weights by which `selected` was chosen; None for the last look.
        places: positions of the patches; None if they lie on the grid of the bag.
        score_kind: what `score` holds.
        slides: position of each patch's slide among those of the patient, for a look of a patient
            whose `rows` are those of each slide; None for a look of one slide, or if `rows` are
            those of the joined tables of `parfocal.features.forest`.
        rounds: the round in which each patch was visited, from 0; None for a model that visits
            the patches of a magnification at once.
    """

    rows: Int64[Tensor, " n"]
    score: Float[Tensor, " n"]
    selected: Int64[Tensor, " k"] | None = None
    zoom_attention: Float[Tensor, " n"] | None = None
    places: Places | None = None
    score_kind: ScoreKind = "attention"
    slides: Int64[Tensor, " n"] | None = None
    rounds: Int64[Tensor, " n"] | None = None


@dataclass(frozen=True)
class Round:
    """The answer of a model after one round of visits.

    Args:
        patches: number of patches visited so far at each magnification, lowest first.
        logits: the answer from these patches.
    """

    patches: tuple[int, ...]
    logits: Float[Tensor, " c"]


@dataclass(frozen=True)
class Prediction:
    """The output of a model for one slide, or for a batch of slides.

    Args:
        logits: one logit per class; one row per slide for a batch.
        looks: one look per magnification, lowest first. Empty for a batch, whose looks are in
            `members`.
        stop_reason: why the model visited no more patches, as a short text for people.
        running: class probabilities after each of the last t patches that were read; None unless
            the model reads patches one after the other.
        terms: tensors that the model's own training objective needs, by name.
        members: one prediction per slide for a batch; empty for one slide.
        rounds: the answers after each round; empty for a model that does not visit in rounds.
        budget_met: whether the visits stayed within the budget; None if there was no fixed one.
    """

    logits: Float[Tensor, "*b c"]
    looks: tuple[Look, ...] = field(default=())
    stop_reason: str = "every magnification was visited"
    running: Float[Tensor, "t c"] | None = None
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    members: tuple["Prediction", ...] = ()
    rounds: tuple[Round, ...] = ()
    budget_met: bool | None = None

    @classmethod
    def stack(
        cls, predictions: Sequence["Prediction"], terms: Mapping[str, Tensor] | None = None
    ) -> "Prediction":
        """Stack the predictions for single slides into the prediction for a batch.

        Args:
            predictions: one prediction per slide.
            terms: tensors for the training objective, computed over the batch.
        """
        logits = torch.stack([prediction.logits for prediction in predictions])
        return cls(logits, terms=terms or {}, members=tuple(predictions))

    @property
    def slides(self) -> tuple["Prediction", ...]:
        """One prediction per slide, with logits of shape (C,)."""
        return self.members or (self,)

    @property
    def scores(self) -> tuple[Float[Tensor, " _"], ...]:
        """`Look.score` of each look, lowest magnification first."""
        return tuple(look.score for look in self.looks)
