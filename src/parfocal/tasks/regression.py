"""Numbers, each in the unit of its column: the squared error of standardized values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.models.contract import Loss
from parfocal.tasks.cells import cell, number, refuse_missing, refuse_mixed_decimals
from parfocal.tasks.contract import Answer, as_rows
from parfocal.tasks.counts import count_numbers, same_values

if TYPE_CHECKING:
    from parfocal.metrics import RegressionPredictions, ResamplableParts, Score


@dataclass(frozen=True)
class Regression:
    """One number per column.

    Args:
        targets: columns of the numbers; those of a slide may be missing, but not all of them.
        means: mean of each column over the training slides; empty until fitted.
        deviations: standard deviation of each column over the training slides.
    """

    targets: tuple[str, ...]
    means: tuple[float, ...] = ()
    deviations: tuple[float, ...] = ()

    name: ClassVar[str] = "regression"
    compares_slides: ClassVar[bool] = False
    thresholds: ClassVar[bool] = False
    classes: ClassVar[tuple[str, ...]] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the numbers."""
        return self.targets

    @property
    def output_names(self) -> tuple[str, ...]:
        """The columns."""
        return self.targets

    @property
    def monitored(self) -> tuple[str, ...]:
        """R² and the mean absolute error of each column."""
        return tuple(self._score_name(m, c) for m in ("r2", "mae") for c in self.targets)

    @property
    def compared(self) -> tuple[str, ...]:
        """All scores of one column; R² and the mean absolute error of several."""
        metrics = ("r2", "mae", "pearson", "spearman") if len(self.targets) == 1 else ("r2", "mae")
        return tuple(self._score_name(m, c) for m in metrics for c in self.targets)

    @property
    def loss(self) -> Loss:
        """The mean squared error of the known values, in standard deviations."""
        return self._loss

    def prepared(self, slides: Sequence[CohortSlide]) -> "Regression":
        """Return the task unchanged; check all numbers."""
        for slide in slides:
            self.encode(slide)
            refuse_missing(slide, self.targets)
        refuse_mixed_decimals(slides, self.targets)
        return self

    def fitted(self, slides: Sequence[CohortSlide]) -> "Regression":
        """Return the task with the mean and standard deviation of each column.

        Raises:
            CohortError: a column has the same value on all training slides.
        """
        encoded = torch.stack([self.encode(slide) for slide in slides])
        means, deviations = [], []
        for column, values in zip(self.targets, encoded.T, strict=True):
            known = values[~values.isnan()]
            if len(known.unique()) < 2:
                raise CohortError(
                    f"{column} is the same on all {len(known)} training slides that have it, so "
                    "there is nothing to learn; choose another column or add slides."
                )
            means.append(known.mean().item())
            deviations.append(known.std(correction=0).item())
        return replace(self, means=tuple(means), deviations=tuple(deviations))

    def known(self, slide: CohortSlide) -> bool:
        """Return whether a number of the slide is known."""
        return any(cell(slide, column) for column in self.targets)

    def group(self, slide: CohortSlide) -> str:
        """Return "": numbers have no groups."""
        return ""

    def encode(self, slide: CohortSlide) -> Float[Tensor, " t"]:
        """Return the numbers of a slide in the units of their columns; NaN where missing."""
        return torch.tensor([number(slide, column) for column in self.targets], dtype=torch.float64)

    def answer(self, logits: Float[Tensor, " t"]) -> Answer:
        """Return the numbers in the units of their columns."""
        scaled = zip(self.targets, self.means, self.deviations, logits.tolist(), strict=True)
        return Answer(outputs={name: mean + sd * logit for name, mean, sd, logit in scaled})

    def describe(self, answer: Answer, thresholds: Mapping[str, float] | None = None) -> str:
        """Return the numbers."""
        if len(self.targets) == 1:
            return f"{answer.outputs[self.targets[0]]:.3g}"
        return ", ".join(f"{name} {answer.outputs[name]:.3g}" for name in self.targets)

    def truth(self, slide: CohortSlide) -> dict[str, str]:
        """Return the numbers of a slide as the cohort has them."""
        return {column: slide.values.get(column, "") for column in self.targets}

    def predictions(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer], column: str
    ) -> "RegressionPredictions":
        """Return predicted and true numbers of one column, grouped by patient."""
        import numpy as np  # noqa: PLC0415 (with the metrics)

        from parfocal.metrics import RegressionPredictions  # noqa: PLC0415 (scikit-learn)

        return RegressionPredictions(
            np.array([answer.outputs[column] for answer in answers]),
            np.array([number(slide, column) for slide in slides]),
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
        """Compute the metrics of `parfocal.metrics.REGRESSION_METRICS` for each column."""
        from parfocal.metrics import regression_scores  # noqa: PLC0415 (imports scikit-learn)

        return {
            self._score_name(metric, column): score
            for column in self.targets
            for metric, score in regression_scores(
                self.predictions(slides, answers, column), resamples=resamples, seed=seed
            ).items()
        }

    def resamplable(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer]
    ) -> "ResamplableParts":
        """Return predictions whose scores can be computed in each resample of the patients."""
        import numpy as np  # noqa: PLC0415 (with the metrics)

        from parfocal.metrics import (  # noqa: PLC0415
            REGRESSION_METRICS,
            Part,
            ResamplableNumbers,
            ResamplableParts,
        )

        parts = tuple(
            Part(
                np.arange(len(slides)),
                ResamplableNumbers(self.predictions(slides, answers, column)),
                {metric: self._score_name(metric, column) for metric in REGRESSION_METRICS},
            )
            for column in self.targets
        )
        return ResamplableParts(tuple(slide.patient_id for slide in slides), parts)

    def count(self, slides: Sequence[CohortSlide]) -> str:
        """Return the range and the median of each column."""
        return "; ".join(count_numbers(slides, column) for column in self.targets)

    def unmeasured(self, slides: Sequence[CohortSlide]) -> tuple[str, ...]:
        """Return which columns are missing or the same on all slides."""
        return same_values(slides, self.targets)

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON."""
        return {"name": self.name, **{key: list(value) for key, value in asdict(self).items()}}

    def _score_name(self, metric: str, column: str) -> str:
        return metric if len(self.targets) == 1 else f"{metric}/{column}"

    def _loss(
        self, logits: Float[Tensor, "..."], target: Float[Tensor, "..."]
    ) -> Float[Tensor, ""]:
        logits, target = as_rows(logits, target)
        means, deviations = target.new_tensor(self.means), target.new_tensor(self.deviations)
        scaled = ((target - means) / deviations).to(logits.dtype)
        known = ~scaled.isnan()
        errors = (logits - torch.where(known, scaled, logits.detach())) ** 2
        return errors.sum() / max(1, int(known.sum()))
