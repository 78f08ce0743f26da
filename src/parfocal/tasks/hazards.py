"""Time to an event in intervals: the probability of the event in each, given that it has not come.

Source: Gensheimer and Narasimhan, "A scalable discrete-time survival model for neural networks",
    PeerJ 2019. Each slide has a likelihood of its own, so no batch of slides is needed.
Departs: the intervals have equal numbers of events; the last one has no end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.models.contract import Loss
from parfocal.tasks.cells import cell, flag
from parfocal.tasks.contract import Answer, as_rows
from parfocal.tasks.counts import count_events
from parfocal.tasks.survival import (
    EVENT_MEANING,
    RISK,
    SURVIVAL_SCORES,
    check_times,
    encode_time,
    incomparable,
    require_events,
    survival_predictions,
)

if TYPE_CHECKING:
    from parfocal.metrics import (
        ResamplableSurvival,
        Score,
        SurvivalCurves,
        SurvivalPredictions,
    )


@dataclass(frozen=True)
class Hazards:
    """The probability of surviving each of several intervals of time.

    Args:
        time: column of the time to the event or to the end of observation.
        event: column of whether the event was observed, 1, or the time is censored, 0.
        bins: number of intervals.
        edges: times between the intervals, ascending; empty until fitted.
    """

    time: str
    event: str
    bins: int = 4
    edges: tuple[float, ...] = ()

    name: ClassVar[str] = "hazards"
    compares_slides: ClassVar[bool] = False
    thresholds: ClassVar[bool] = False
    classes: ClassVar[tuple[str, ...]] = ()
    monitored: ClassVar[tuple[str, ...]] = ("concordance",)
    compared: ClassVar[tuple[str, ...]] = SURVIVAL_SCORES

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the time and of the event."""
        return (self.time, self.event)

    @property
    def output_names(self) -> tuple[str, ...]:
        """One name for the hazard of each interval."""
        return tuple(f"hazard_{number}" for number in range(1, self.bins + 1))

    @property
    def loss(self) -> Loss:
        """The mean negative log-likelihood of the intervals that each slide was observed in."""
        return self._loss

    def prepared(self, slides: Sequence[CohortSlide]) -> "Hazards":
        """Return the task unchanged; check all times and events."""
        check_times(slides, self.time, self.event)
        return self

    def fitted(self, slides: Sequence[CohortSlide]) -> "Hazards":
        """Return the task with edges at the quantiles of the times of events.

        If the task already has edges, which are those of all folds, they are kept.

        Raises:
            CohortError: there are fewer events at different times than intervals.
        """
        require_events(slides, self.time, self.event)
        if self.edges:
            return self
        encoded = torch.stack([self.encode(slide) for slide in slides])
        times = encoded[encoded[:, 1] == 1, 0]
        distinct = len(set(times.tolist()))
        shares = torch.arange(1, self.bins, dtype=torch.float64) / self.bins
        edges = tuple(times.quantile(shares).tolist())
        if len(set(edges)) < len(edges) or distinct < self.bins:
            raise CohortError(
                f"the slides have {len(times)} events at {distinct} different "
                f"times, which do not fill {self.bins} intervals; set train.time_bins lower, or "
                "use --task survival."
            )
        return replace(self, edges=edges)

    def known(self, slide: CohortSlide) -> bool:
        """Return whether the time and the event of a slide are known."""
        return all(cell(slide, column) for column in self.columns)

    def group(self, slide: CohortSlide) -> str:
        """Return "event" or "censored"."""
        return "event" if flag(slide, self.event, meaning=EVENT_MEANING) == 1 else "censored"

    def encode(self, slide: CohortSlide) -> Float[Tensor, "2"]:
        """Return the time and the event of a slide."""
        return encode_time(slide, self.time, self.event)

    def survival(self, logits: Float[Tensor, "*b k"]) -> Float[Tensor, "*b k"]:
        """Return the probability of no event up to the end of each interval."""
        return F.logsigmoid(-logits.double()).cumsum(dim=-1).exp()

    def answer(self, logits: Float[Tensor, " k"]) -> Answer:
        """Return the probability of surviving to each edge, and the risk.

        The risk is the mean over the edges of the probability of an event before them.
        """
        survival = self.survival(logits)[:-1].tolist()
        at_edges = dict(zip(self._survival_names, survival, strict=True))
        return Answer(outputs={RISK: 1 - sum(survival) / len(survival), **at_edges})

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
        """Return the probability of survival at the edges."""
        import numpy as np  # noqa: PLC0415 (with the metrics)

        from parfocal.metrics import SurvivalCurves  # noqa: PLC0415 (imports scikit-learn)

        survival = [[each.outputs[name] for name in self._survival_names] for each in answers]
        return SurvivalCurves(np.array(self.edges), np.array(survival))

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
        return {"name": self.name, **asdict(self), "edges": list(self.edges)}

    @property
    def _survival_names(self) -> tuple[str, ...]:
        return tuple(f"survival_at_{edge:g}" for edge in self.edges)

    def _loss(
        self, logits: Float[Tensor, "..."], target: Float[Tensor, "..."]
    ) -> Float[Tensor, ""]:
        logits, target = as_rows(logits, target)
        time, event = target[:, :1], target[:, 1:] == 1  # b 1
        starts = time.new_tensor([0.0, *self.edges])  # k
        ends = time.new_tensor([*self.edges, torch.inf])  # k
        inside = (starts < time) & (time <= ends)  # b k
        # Censored in an interval: it counts as survived from its middle on.
        survived = torch.where(event, ends < time, (starts + ends) / 2 <= time)
        likelihood = torch.where(
            inside & event,
            F.logsigmoid(logits),
            torch.where(survived, F.logsigmoid(-logits), torch.zeros_like(logits)),
        )
        return -likelihood.sum(dim=1).mean()
