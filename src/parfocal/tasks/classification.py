"""One class per slide: cross-entropy, probabilities, AUROC and accuracy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.models.contract import Loss
from parfocal.tasks.cells import cell
from parfocal.tasks.contract import LABEL, Answer
from parfocal.tasks.counts import count_labels, none_of

if TYPE_CHECKING:
    from parfocal.metrics import LabeledPredictions, Score


@dataclass(frozen=True)
class Classification:
    """One class per slide.

    Args:
        labels: class labels in the order of the logits; empty until the cohort is known.
        target: column of the class.
    """

    labels: tuple[str, ...] = ()
    target: str = LABEL

    name: ClassVar[str] = "classification"
    compares_slides: ClassVar[bool] = False
    thresholds: ClassVar[bool] = True
    monitored: ClassVar[tuple[str, ...]] = ("weighted_f1", "auroc_macro")
    compared: ClassVar[tuple[str, ...]] = ("weighted_f1", "accuracy", "auroc_macro")

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
        """The cross-entropy."""
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
        return loss

    def prepared(self, slides: Sequence[CohortSlide]) -> "Classification":
        """Return the task with the labels of the slides, sorted, unless it has labels.

        Raises:
            CohortError: it has labels, and the label of a slide is none of them.
        """
        if self.labels:
            for slide in slides:
                label = self._label(slide)
                if label and label not in self.labels:
                    raise CohortError(
                        f"row {slide.row}: {self.target} {label!r} is none of the classes "
                        f"{', '.join(self.labels)}. A model cannot predict a class that it was "
                        "not trained on; remove the slide, or train on this class as well."
                    )
            return self
        return Classification(tuple(sorted({self._label(slide) for slide in slides})), self.target)

    def fitted(self, slides: Sequence[CohortSlide]) -> "Classification":
        """Return the task unchanged."""
        return self

    def known(self, slide: CohortSlide) -> bool:
        """Return whether the class of a slide is known."""
        return bool(self._label(slide))

    def group(self, slide: CohortSlide) -> str:
        """Return the class of a slide."""
        return self._label(slide)

    def encode(self, slide: CohortSlide) -> Int64[Tensor, ""]:
        """Return the position of the class of a slide."""
        return torch.tensor(self.labels.index(self._label(slide)))

    def answer(self, logits: Float[Tensor, " c"]) -> Answer:
        """Return the probability of each class."""
        return Answer(dict(zip(self.labels, logits.softmax(dim=0).tolist(), strict=True)))

    def describe(self, answer: Answer, thresholds: Mapping[str, float] | None = None) -> str:
        """Return the most probable class; the first one in case of a tie."""
        return max(answer.probabilities, key=answer.probabilities.__getitem__)

    def truth(self, slide: CohortSlide) -> dict[str, str]:
        """Return the class of a slide."""
        return {self.target: self._label(slide)}

    def predictions(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer]
    ) -> "LabeledPredictions":
        """Return probabilities and true classes, grouped by patient."""
        import numpy as np  # noqa: PLC0415 (with the metrics)

        from parfocal.metrics import LabeledPredictions  # noqa: PLC0415 (imports scikit-learn)

        return LabeledPredictions(
            self.labels,
            np.array([self.labels.index(self._label(each)) for each in slides], dtype=np.int64),
            np.array([[each.probabilities[label] for label in self.labels] for each in answers]),
            tuple(slide.patient_id for slide in slides),
        )

    def scores(
        self,
        slides: Sequence[CohortSlide],
        answers: Sequence[Answer],
        *,
        resamples: int = 2000,
        seed: int = 0,
    ) -> "dict[str, Score]":
        """Compute the metrics of `parfocal.metrics.METRICS`, and those of each class."""
        from parfocal.metrics import compute_scores  # noqa: PLC0415 (imports scikit-learn)

        return compute_scores(self.predictions(slides, answers), resamples=resamples, seed=seed)

    def resamplable(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer]
    ) -> "LabeledPredictions":
        """Return the same as `predictions`."""
        return self.predictions(slides, answers)

    def count(self, slides: Sequence[CohortSlide]) -> str:
        """Return how many slides have each class."""
        return count_labels(slides, self.target)

    def unmeasured(self, slides: Sequence[CohortSlide]) -> tuple[str, ...]:
        """Return which classes no slide has."""
        found = {self._label(slide) for slide in slides}
        missing = [label for label in self.labels if label not in found]
        if not missing:
            return ()
        return (f"{none_of(slides)} {self.target} {' or '.join(missing)}",)

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON."""
        return {"name": self.name, **asdict(self), "labels": list(self.labels)}

    def _label(self, slide: CohortSlide) -> str:
        """Return the class of a slide: its label, or the cell of one of several columns."""
        return cell(slide, self.target) if self.target in slide.values else slide.label
