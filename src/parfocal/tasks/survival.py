"""Time to an event, some of it censored: the risk of Cox's proportional hazards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.models.contract import Loss
from parfocal.tasks.cells import cell, duration, flag, refuse_mixed_decimals
from parfocal.tasks.contract import Answer, as_rows
from parfocal.tasks.counts import count_events, none_of
from parfocal.tasks.cox import cox_loss

if TYPE_CHECKING:
    from parfocal.metrics import (
        ResamplableSurvival,
        Score,
        SurvivalCurves,
        SurvivalPredictions,
    )

EVENT_MEANING = ("censored", "the event")
RISK = "risk"
SURVIVAL_SCORES = ("concordance", "concordance_uno", "auroc_time", "integrated_brier")


@dataclass(frozen=True)
class Survival:
    """The risk of an event: the higher, the earlier.

    Args:
        time: column of the time to the event or to the end of observation.
        event: column of whether the event was observed, 1, or the time is censored, 0.
        times: times of events of the training slides, ascending; empty until completed.
        hazard: baseline hazard accumulated until each of these times, for a risk of 0.
    """

    time: str
    event: str
    times: tuple[float, ...] = ()
    hazard: tuple[float, ...] = ()

    name: ClassVar[str] = "survival"
    compares_slides: ClassVar[bool] = True
    thresholds: ClassVar[bool] = False
    classes: ClassVar[tuple[str, ...]] = ()
    output_names: ClassVar[tuple[str, ...]] = (RISK,)
    monitored: ClassVar[tuple[str, ...]] = ("concordance",)
    compared: ClassVar[tuple[str, ...]] = SURVIVAL_SCORES

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the time and of the event."""
        return (self.time, self.event)

    @property
    def loss(self) -> Loss:
        """The negative partial log-likelihood of the slides of a batch."""
        return survival_loss

    def prepared(self, slides: Sequence[CohortSlide]) -> "Survival":
        """Return the task unchanged; check all times and events."""
        check_times(slides, self.time, self.event)
        return self

    def fitted(self, slides: Sequence[CohortSlide]) -> "Survival":
        """Return the task unchanged; check that there are events to learn from."""
        require_events(slides, self.time, self.event)
        return self

    def completed(
        self, slides: Sequence[CohortSlide], logits: Sequence[Float[Tensor, " 1"]]
    ) -> "Survival":
        """Return the task with the baseline hazard of the training slides, after Breslow."""
        from parfocal.metrics import breslow  # noqa: PLC0415 (imports scikit-learn)

        pairs = zip(slides, logits, strict=True)
        known = [(slide, self.answer(each)) for slide, each in pairs if self.known(slide)]
        predictions = self.predictions([slide for slide, _ in known], [each for _, each in known])
        found = breslow(predictions.time, predictions.event, predictions.risk)
        return replace(self, times=found.times, hazard=found.cumulative_hazard)

    def known(self, slide: CohortSlide) -> bool:
        """Return whether the time and the event of a slide are known."""
        return all(cell(slide, column) for column in self.columns)

    def group(self, slide: CohortSlide) -> str:
        """Return "event" or "censored"."""
        return "event" if flag(slide, self.event, meaning=EVENT_MEANING) == 1 else "censored"

    def encode(self, slide: CohortSlide) -> Float[Tensor, "2"]:
        """Return the time and the event of a slide."""
        return encode_time(slide, self.time, self.event)

    def answer(self, logits: Float[Tensor, "1"]) -> Answer:
        """Return the risk, the log-hazard up to a constant."""
        return Answer(outputs={RISK: logits.item()})

    def describe(self, answer: Answer, thresholds: Mapping[str, float] | None = None) -> str:
        """Return the risk."""
        return f"risk {answer.outputs[RISK]:.3g}"

    def truth(self, slide: CohortSlide) -> dict[str, str]:
        """Return the time and the event of a slide as the cohort has them."""
        return {column: slide.values.get(column, "") for column in self.columns}

    def predictions(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer]
    ) -> "SurvivalPredictions":
        """Return risks, times and events, grouped by patient."""
        return survival_predictions(slides, answers, self.time, self.event)

    def curves(self, answers: Sequence[Answer]) -> "SurvivalCurves | None":
        """Return the probability of survival at the times of events; None until completed."""
        if not self.times:
            return None
        import numpy as np  # noqa: PLC0415 (with the metrics)

        from parfocal.metrics import SurvivalBaseline, SurvivalCurves  # noqa: PLC0415

        times = np.array(self.times)
        risk = np.array([answer.outputs[RISK] for answer in answers])
        survival = SurvivalBaseline(self.times, self.hazard).survival(risk, times)
        return SurvivalCurves(times, survival)

    def scores(
        self,
        slides: Sequence[CohortSlide],
        answers: Sequence[Answer],
        *,
        resamples: int = 2000,
        seed: int = 0,
    ) -> "dict[str, Score]":
        """Compute the metrics of `parfocal.metrics.SURVIVAL_METRICS`."""
        from parfocal.metrics import survival_scores  # noqa: PLC0415 (imports scikit-learn)

        predictions, curves = self.predictions(slides, answers), self.curves(answers)
        return survival_scores(predictions, curves=curves, resamples=resamples, seed=seed)

    def resamplable(
        self, slides: Sequence[CohortSlide], answers: Sequence[Answer]
    ) -> "ResamplableSurvival":
        """Return predictions whose scores can be computed in each resample of the patients."""
        from parfocal.metrics import ResamplableSurvival  # noqa: PLC0415 (with the metrics)

        return ResamplableSurvival(self.predictions(slides, answers), self.curves(answers))

    def count(self, slides: Sequence[CohortSlide]) -> str:
        """Return how many slides have the event, and the range of the times."""
        return count_events(slides, self.time, self.event)

    def unmeasured(self, slides: Sequence[CohortSlide]) -> tuple[str, ...]:
        """Return that no slide has an event, or that none outlives the first event."""
        return incomparable(slides, self.time, self.event)

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON."""
        columns = {"name": self.name, "time": self.time, "event": self.event}
        return columns | {"times": list(self.times), "hazard": list(self.hazard)}


def survival_loss(logits: Float[Tensor, "..."], target: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return Cox's loss of risks (B, 1) and of times and events (B, 2)."""
    logits, target = as_rows(logits, target)
    return cox_loss(logits[:, 0], target[:, 0], target[:, 1] == 1)


def check_times(slides: Sequence[CohortSlide], time: str, event: str) -> None:
    """Check the times and events of all slides.

    Raises:
        CohortError: one is missing or invalid; or the slides of a patient differ in them.
    """
    by_patient: dict[str, CohortSlide] = {}
    for slide in slides:
        encode_time(slide, time, event)
        for column in (time, event):
            if not cell(slide, column):
                raise CohortError(
                    f"row {slide.row}: {column} is missing for slide {slide.slide_id}; add the "
                    "value or remove the row."
                )
        first = by_patient.setdefault(slide.patient_id, slide)
        if not torch.equal(encode_time(first, time, event), encode_time(slide, time, event)):
            raise CohortError(
                f"row {slide.row}: patient {slide.patient_id} has another {time} or {event} than "
                f"in row {first.row}; correct one of the rows."
            )
    refuse_mixed_decimals(slides, (time,))


def incomparable(slides: Sequence[CohortSlide], time: str, event: str) -> tuple[str, ...]:
    """Return why no two validation slides can be compared, in words; empty if some can."""
    times = [encode_time(slide, time, event).tolist() for slide in slides]
    events = [moment for moment, observed in times if observed == 1]
    if not events:
        return (f"{none_of(slides)} an event ({event} = 1)",)
    if all(moment <= min(events) for moment, _ in times):
        return (f"{none_of(slides)} {time} above {min(events):g}, the time of the first event",)
    return ()


def require_events(slides: Sequence[CohortSlide], time: str, event: str) -> None:
    """Refuse training slides without two patients of whom one outlives the event of another.

    Raises:
        CohortError: there is no event, or nobody to compare it with.
    """
    times = [encode_time(slide, time, event).tolist() for slide in slides]
    events = [moment for moment, observed in times if observed == 1]
    if not events:
        raise CohortError(
            f"none of the {len(slides)} training slides has an event ({event} = 1), and survival "
            "cannot be learned from censored times alone; add patients, or use fewer folds."
        )
    if all(moment <= min(events) for moment, _ in times):
        raise CohortError(
            f"no training slide has a {time} after the first event ({min(events):g}), so no two "
            "patients can be compared; add patients with a longer observation."
        )


def encode_time(slide: CohortSlide, time: str, event: str) -> Float[Tensor, "2"]:
    """Return the time and the event of a slide; NaN where missing.

    Raises:
        CohortError: a cell is invalid.
    """
    observed = flag(slide, event, meaning=EVENT_MEANING)
    return torch.tensor([duration(slide, time), observed], dtype=torch.float64)


def survival_predictions(
    slides: Sequence[CohortSlide], answers: Sequence[Answer], time: str, event: str
) -> "SurvivalPredictions":
    """Return risks, times and events, grouped by patient."""
    import numpy as np  # noqa: PLC0415 (with the metrics)

    from parfocal.metrics import SurvivalPredictions  # noqa: PLC0415 (imports scikit-learn)

    encoded = np.array([encode_time(slide, time, event).tolist() for slide in slides])
    return SurvivalPredictions(
        np.array([answer.outputs[RISK] for answer in answers]),
        encoded[:, 0],
        encoded[:, 1] == 1,
        tuple(slide.patient_id for slide in slides),
    )
