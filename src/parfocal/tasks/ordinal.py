"""One of several ordered classes, of which the difference counts, such as grades of a tumor.

The loss is the mean, over the thresholds between neighboring classes, of the binary cross-entropy
of "the class is above the threshold", whose probability is the sum of the softmax above it. With
two classes it is the cross-entropy. It is a proper scoring rule, and an answer that is off by two
classes costs two thresholds. Ours; the thresholds are those of McCullagh, "Regression models for
ordinal data", JRSS B 1980, on probabilities that always add up to 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.dataset.spelling import labels_option
from parfocal.models.contract import Loss
from parfocal.tasks.classification import Classification
from parfocal.tasks.contract import LABEL, Answer

if TYPE_CHECKING:
    from parfocal.metrics import LabeledPredictions, Score


@dataclass(frozen=True)
class Ordinal:
    """One of several ordered classes.

    Args:
        labels: class labels from the lowest to the highest; empty until the cohort is known.
        target: column of the class.
    """

    labels: tuple[str, ...] = ()
    target: str = LABEL

    name: ClassVar[str] = "ordinal"
    compares_slides: ClassVar[bool] = False
    thresholds: ClassVar[bool] = True
    monitored: ClassVar[tuple[str, ...]] = ("quadratic_kappa",)
    compared: ClassVar[tuple[str, ...]] = ("quadratic_kappa", *Classification.compared)

    @property
    def columns(self) -> tuple[str, ...]:
        """Column of the class."""
        return (self.target,)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The class labels."""
        return self.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """The class labels."""
        return self.labels

    @property
    def loss(self) -> Loss:
        """The mean cross-entropy of the thresholds between neighboring classes."""
        return ordinal_loss

    def prepared(self, slides: Sequence[CohortSlide]) -> "Ordinal":
        """Return the task with its labels in order.

        Raises:
            CohortError: the labels are not numbers, so that their order is unknown; or it has
                labels, and the label of a slide is none of them.
        """
        labels = self._classification.prepared(slides).labels
        if self.labels:
            return self
        try:
            return replace(self, labels=tuple(sorted(labels, key=_as_number)))
        except ValueError:
            raise CohortError(
                f"{self.target}: the order of the classes {', '.join(labels)} is unknown, as they "
                f"are not all numbers; give it, lowest first: {labels_option(labels)}."
            ) from None

    def fitted(self, slides: Sequence[CohortSlide]) -> "Ordinal":
        """Return the task unchanged."""
        return self

    def known(self, slide: CohortSlide) -> bool:
        """Return whether the class of a slide is known."""
        return self._classification.known(slide)

    def group(self, slide: CohortSlide) -> str:
        """Return the class of a slide."""
        return self._classification.group(slide)

    def encode(self, slide: CohortSlide) -> Int64[Tensor, ""]:
        """Return the position of the class of a slide."""
        return self._classification.encode(slide)

    def answer(self, logits: Float[Tensor, " c"]) -> Answer:
        """Return the probability of each class."""
        return self._classification.answer(logits)

    def describe(self, answer: Answer, thresholds: Mapping[str, float] | None = None) -> str:
        """Return the most probable class; the first one in case of a tie."""
        return self._classification.describe(answer)

    def truth(self, slide: CohortSlide) -> dict[str, str]:
        """Return the class of a slide."""
        return self._classification.truth(slide)

    def predictions(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer]
    ) -> "LabeledPredictions":
        """Return probabilities and true classes, grouped by patient."""
        return self._classification.predictions(slides, answers)

    def scores(
        self,
        slides: Sequence[CohortSlide],
        answers: Sequence[Answer],
        *,
        resamples: int = 2000,
        seed: int = 0,
    ) -> "dict[str, Score]":
        """Compute the metrics of `parfocal.metrics.METRICS`, the quadratic kappa first."""
        scores = self._classification.scores(slides, answers, resamples=resamples, seed=seed)
        return {"quadratic_kappa": scores["quadratic_kappa"], **scores}

    def resamplable(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer]
    ) -> "LabeledPredictions":
        """Return the same as `predictions`."""
        return self.predictions(slides, answers)

    def count(self, slides: Sequence[CohortSlide]) -> str:
        """Return how many slides have each class."""
        return self._classification.count(slides)

    def unmeasured(self, slides: Sequence[CohortSlide]) -> tuple[str, ...]:
        """Return which classes no slide has."""
        return self._classification.unmeasured(slides)

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON."""
        return {"name": self.name, **asdict(self), "labels": list(self.labels)}

    @property
    def _classification(self) -> Classification:
        return Classification(self.labels, self.target)


def ordinal_loss(logits: Float[Tensor, "*b c"], target: Int64[Tensor, "*b"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the thresholds between neighboring classes.

    Args:
        logits: (C,) or (B, C).
        target: position of the class, () or (B,).
    """
    rows, classes = logits.view(-1, logits.shape[-1]), target.view(-1)
    log_probability = rows.log_softmax(dim=1)
    below = log_probability.logcumsumexp(dim=1)[:, :-1]  # b c-1: log P(class <= threshold)
    above = log_probability.flip(1).logcumsumexp(dim=1).flip(1)[:, 1:]  # log P(class > threshold)
    thresholds = torch.arange(rows.shape[1] - 1, device=rows.device)
    chosen = torch.where(classes[:, None] > thresholds, above, below)
    return -chosen.mean(dim=1).mean()


def _as_number(label: str) -> float:
    return float(label.replace(",", "."))
