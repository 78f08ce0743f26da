"""Several yes-or-no questions about a slide, any number of which may be true."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.models.contract import Loss
from parfocal.tasks.cells import cell, flag, refuse_missing
from parfocal.tasks.contract import Answer, as_rows
from parfocal.tasks.counts import count_flags, same_values

if TYPE_CHECKING:
    from parfocal.metrics import LabeledPredictions, ResamplableParts, Score

MIN_GROUP = 10  # patients with and without a label, from which on splits are stratified by it
KEPT = ("auroc", "average_precision")  # metrics of each label
MACRO = "auroc_macro"  # the mean over the labels


@dataclass(frozen=True)
class Multilabel:
    """The probability of each of several labels.

    Args:
        targets: columns of the labels, 0 or 1 on each slide; some of a slide may be missing.
        stratum: column by which a split is stratified; empty for none.
    """

    targets: tuple[str, ...]
    stratum: str = ""

    name: ClassVar[str] = "multilabel"
    compares_slides: ClassVar[bool] = False
    thresholds: ClassVar[bool] = True
    classes: ClassVar[tuple[str, ...]] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the labels."""
        return self.targets

    @property
    def output_names(self) -> tuple[str, ...]:
        """The columns."""
        return self.targets

    @property
    def monitored(self) -> tuple[str, ...]:
        """The mean AUROC, and that of each label."""
        return (MACRO, *(f"auroc/{target}" for target in self.targets))

    @property
    def compared(self) -> tuple[str, ...]:
        """The mean AUROC, and that of each label."""
        return self.monitored

    @property
    def loss(self) -> Loss:
        """The mean binary cross-entropy of the known labels."""
        return multilabel_loss

    def prepared(self, slides: Sequence[CohortSlide]) -> "Multilabel":
        """Return the task with the label by which splits are stratified: the rarest frequent one.

        Raises:
            CohortError: a label is neither 0 nor 1, or a slide has none.
        """
        for slide in slides:
            self.encode(slide)
            refuse_missing(slide, self.targets)
        patients = {
            column: [
                len({s.patient_id for s in slides if flag(s, column) == value}) for value in (0, 1)
            ]
            for column in self.targets
        }
        frequent = [column for column in self.targets if min(patients[column]) >= MIN_GROUP]
        stratum = min(frequent, key=lambda column: min(patients[column]), default="")
        return Multilabel(self.targets, stratum)

    def fitted(self, slides: Sequence[CohortSlide]) -> "Multilabel":
        """Return the task unchanged; check that there is something to learn.

        Raises:
            CohortError: a label is the same on all training slides.
        """
        for column in self.targets:
            found = {flag(slide, column) for slide in slides if cell(slide, column)}
            if len(found) < 2:
                raise CohortError(
                    f"{column} is {'always the same' if found else 'missing'} on the training "
                    "slides, so there is nothing to learn; remove it from --target or add slides."
                )
        return self

    def known(self, slide: CohortSlide) -> bool:
        """Return whether a label of the slide is known."""
        return any(cell(slide, column) for column in self.targets)

    def group(self, slide: CohortSlide) -> str:
        """Return whether the slide has the label by which splits are stratified."""
        if not self.stratum or not cell(slide, self.stratum):
            return ""
        return self.stratum if flag(slide, self.stratum) else f"no {self.stratum}"

    def encode(self, slide: CohortSlide) -> Float[Tensor, " t"]:
        """Return 0 or 1 for each label; NaN where missing."""
        return torch.tensor([flag(slide, column) for column in self.targets], dtype=torch.float64)

    def answer(self, logits: Float[Tensor, " t"]) -> Answer:
        """Return the probability of each label."""
        return Answer(outputs=dict(zip(self.targets, logits.sigmoid().tolist(), strict=True)))

    def describe(self, answer: Answer, thresholds: Mapping[str, float] | None = None) -> str:
        """Return the labels whose probability reaches its threshold.

        Args:
            answer: the probabilities.
            thresholds: threshold of each label; one half for others.
        """
        limits = thresholds or {}
        found = [name for name in self.targets if answer.outputs[name] >= limits.get(name, 0.5)]
        return ", ".join(found) or "none"

    def truth(self, slide: CohortSlide) -> dict[str, str]:
        """Return the labels of a slide as the cohort has them."""
        return {column: slide.values.get(column, "") for column in self.targets}

    def predictions(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer], column: str
    ) -> "LabeledPredictions":
        """Return the probabilities of one label for the slides where it is known."""
        import numpy as np  # noqa: PLC0415 (with the metrics)

        from parfocal.metrics import LabeledPredictions  # noqa: PLC0415 (imports scikit-learn)

        pairs = [(s, a) for s, a in zip(slides, answers, strict=True) if cell(s, column)]
        probability = np.array([answer.outputs[column] for _, answer in pairs])
        return LabeledPredictions(
            (f"no {column}", column),
            np.array([int(flag(slide, column)) for slide, _ in pairs], dtype=np.int64),
            np.stack([1 - probability, probability], axis=1),
            tuple(slide.patient_id for slide, _ in pairs),
        )

    def scores(
        self,
        slides: Sequence[CohortSlide],
        answers: Sequence[Answer],
        *,
        resamples: int = 2000,
        seed: int = 0,
    ) -> "dict[str, Score]":
        """Compute AUROC and average precision of each label, and the mean AUROC.

        A label that is known on no slide, or the same on all, has no AUROC.
        """
        from parfocal.metrics import (  # noqa: PLC0415 (with the metrics)
            Score,
            compute_scores,
            resampled_scores,
        )

        mean = resampled_scores(
            self.resamplable(slides, answers),
            {MACRO: "undefined: a label has no AUROC"},
            resamples=resamples,
            seed=seed,
        )
        scores: dict[str, Score] = dict(mean)
        for column in self.targets:
            predictions = self.predictions(slides, answers, column)
            if not len(predictions.truth):
                missing = Score(None, reason=f"undefined: no slide has {column}")
                scores |= {f"{metric}/{column}": missing for metric in KEPT}
                continue
            found = compute_scores(predictions, resamples=resamples, seed=seed)
            scores |= {f"{metric}/{column}": found[f"{metric}/{column}"] for metric in KEPT}
        return scores

    def resamplable(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer]
    ) -> "ResamplableParts":
        """Return predictions whose scores can be computed in each resample of the patients."""
        import numpy as np  # noqa: PLC0415 (with the metrics)

        from parfocal.metrics import Part, ResamplableParts  # noqa: PLC0415

        parts = tuple(
            Part(
                np.flatnonzero([bool(cell(slide, column)) for slide in slides]),
                self.predictions(slides, answers, column),
                {f"{metric}/{column}": f"{metric}/{column}" for metric in KEPT},
            )
            for column in self.targets
        )
        groups = tuple(slide.patient_id for slide in slides)
        aurocs = tuple(f"{KEPT[0]}/{column}" for column in self.targets)
        return ResamplableParts(groups, parts, {MACRO: aurocs})

    def count(self, slides: Sequence[CohortSlide]) -> str:
        """Return on how many slides each label is true and false."""
        return "; ".join(count_flags(slides, column) for column in self.targets)

    def unmeasured(self, slides: Sequence[CohortSlide]) -> tuple[str, ...]:
        """Return which labels are missing or the same on all slides."""
        return same_values(slides, self.targets, flag)

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON."""
        return {"name": self.name, **asdict(self), "targets": list(self.targets)}


def multilabel_loss(
    logits: Float[Tensor, "..."], target: Float[Tensor, "..."]
) -> Float[Tensor, ""]:
    """Return the mean binary cross-entropy of the known labels; NaN marks an unknown one."""
    logits, target = as_rows(logits, target)
    known = ~target.isnan()
    filled = torch.where(known, target, torch.zeros_like(target)).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, filled, reduction="none")
    return torch.where(known, each, torch.zeros_like(each)).sum() / max(1, int(known.sum()))
