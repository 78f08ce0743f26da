"""Scores of predicted risks against times to an event, some of which are censored.

A higher risk means an earlier event. Sources: Harrell et al., "Evaluating the yield of medical
tests", JAMA 1982; Uno et al., "On the C-statistics for evaluating overall adequacy of risk
prediction procedures with censored survival data", Statistics in Medicine 2011; Uno et al.,
"Evaluating prediction rules for t-year survivors with censored regression models", JASA 2007;
Graf et al., "Assessment and comparison of prognostic classification schemes for survival data",
Statistics in Medicine 1999.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float
from scipy.integrate import trapezoid

from parfocal.metrics.bootstrap import Score, patient_weights, score_with_interval
from parfocal.metrics.product_limit import ProductLimit, censoring_curve
from parfocal.metrics.weighted import rank_scores

# The name in files and in code -> the label in reports and logs.
SURVIVAL_METRICS = {
    "concordance": "concordance (Harrell)",
    "concordance_uno": "concordance (Uno)",
    "auroc_time": "time-dependent AUROC",
    "integrated_brier": "integrated Brier score",
}
DECILES = np.arange(1, 10) / 10  # of the event times, at which the AUROC is computed
PAIR_BLOCK = 4_000_000  # pairs compared at once; limits the memory


@dataclass(frozen=True)
class SurvivalPredictions:
    """Predicted risks and observed times of slides, or of patients.

    Args:
        risk: predicted risk, higher for an earlier event.
        time: time to the event or to the end of observation; NaN where unknown.
        event: whether the event was observed; if False, the time is censored.
        groups: patient id of each row; the bootstrap draws all rows of a patient together.
    """

    risk: Float[np.ndarray, " n"]
    time: Float[np.ndarray, " n"]
    event: Bool[np.ndarray, " n"]
    groups: tuple[str, ...]

    def known(self) -> "SurvivalPredictions":
        """Return the rows whose risk and time are known."""
        return self.rows(np.isfinite(self.risk) & np.isfinite(self.time))

    def rows(self, keep: Bool[np.ndarray, " n"]) -> "SurvivalPredictions":
        """Return some of the rows."""
        groups = tuple(np.array(self.groups, dtype=object)[keep].tolist())
        return SurvivalPredictions(self.risk[keep], self.time[keep], self.event[keep], groups)

    def by_patient(self) -> "SurvivalPredictions":
        """Return one row per patient, with the mean of the risks of its slides.

        Raises:
            ValueError: slides of one patient have different times or events.
        """
        patients, first, member = np.unique(
            np.array(self.groups), return_index=True, return_inverse=True
        )
        time, event = self.time[first], self.event[first]
        same = (time[member] == self.time) | (np.isnan(time[member]) & np.isnan(self.time))
        if not (same & (event[member] == self.event)).all():
            at = int(np.flatnonzero(~same | (event[member] != self.event))[0])
            raise ValueError(
                f"patient {self.groups[at]} has slides with different times or events; "
                "patient-level scores need one per patient."
            )
        risk = np.bincount(member, weights=self.risk) / np.bincount(member)
        return SurvivalPredictions(risk, time, event, tuple(patients.tolist()))


@dataclass(frozen=True)
class SurvivalCurves:
    """Predicted probabilities of being free of the event.

    Args:
        times: times at which the probabilities are given, ascending.
        survival: probability of no event up to each time, for each row of the predictions.
    """

    times: Float[np.ndarray, " t"]
    survival: Float[np.ndarray, "n t"]


def survival_scores(
    predictions: SurvivalPredictions,
    *,
    curves: SurvivalCurves | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Score]:
    """Compute every metric of `SURVIVAL_METRICS` with its 95% bootstrap interval over patients.

    Censoring is weighted by its Kaplan-Meier curve in the same slides, which is estimated again in
    each resample. Rows whose risk or time is unknown are left out.

    Args:
        predictions: of slides or patients.
        curves: predicted survival curves, for the integrated Brier score; None if there are none.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
    """
    keep = np.isfinite(predictions.risk) & np.isfinite(predictions.time)
    known = predictions.rows(keep)
    if not len(known.risk):
        reason = "undefined: no risk with a known time"
        return {name: Score(None, reason=reason) for name in SURVIVAL_METRICS}
    if curves is not None:
        curves = replace(curves, survival=curves.survival[keep])
    scorer = _Scorer(known, curves)
    values = scorer.scores(np.ones((1, len(known.risk))))
    row_size = len(known.risk) * (1 if curves is None else 2)
    blocks = [
        scorer.scores(weights)
        for weights in patient_weights(known.groups, resamples, seed, row_size=row_size)
    ]
    return {
        name: score_with_interval(
            float(values[name][0]),
            np.concatenate([block[name] for block in blocks] or [np.empty(0)]),
            scorer.undefined_reason(name),
        )
        for name in SURVIVAL_METRICS
    }


def concordance(predictions: SurvivalPredictions) -> float | None:
    """Return Harrell's concordance without an interval; None where it is undefined.

    It is the share of comparable pairs in which the higher risk has the earlier event; equal risks
    count one half. A pair is comparable if the shorter of its times ends in an event; of two equal
    times, one must be an event and the other censored.
    """
    known = predictions.known()
    value = _Scorer(known, None).concordances(np.ones((1, len(known.risk))))[0][0]
    return None if np.isnan(value) else float(value)


def weighted_survival_scores(
    known: SurvivalPredictions,
    curves: SurvivalCurves | None,
    weights: Float[np.ndarray, "r n"],
) -> dict[str, Float[np.ndarray, " r"]]:
    """Compute every metric of `SURVIVAL_METRICS` for each row of weights; NaN where undefined.

    Args:
        known: predictions whose risks and times are known.
        curves: their survival curves; None if there are none.
        weights: weight of each prediction; no row sums to 0.
    """
    return _Scorer(known, curves).scores(weights)


@dataclass(frozen=True)
class _Scorer:
    """Computes the metrics for rows of weights."""

    known: SurvivalPredictions
    curves: SurvivalCurves | None

    def scores(self, weights: Float[np.ndarray, "r n"]) -> dict[str, Float[np.ndarray, " r"]]:
        harrell, uno = self.concordances(weights)
        return {
            "concordance": harrell,
            "concordance_uno": uno,
            "auroc_time": self.auroc(weights),
            "integrated_brier": self.brier(weights),
        }

    def concordances(
        self, weights: Float[np.ndarray, "r n"]
    ) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:
        """Compute the concordances of Harrell and Uno; Uno weights pairs by 1 / G(t)^2."""
        risk, time, event = self.known.risk, self.known.time, self.known.event
        events = np.flatnonzero(event)
        inverse = self._censoring(weights).before(time[events]) ** -2  # r e
        sums = np.zeros((4, len(weights)))
        step = max(1, PAIR_BLOCK // max(1, len(risk)))
        for start in range(0, len(events), step):
            rows = events[start : start + step, None]
            later = (time > time[rows]) | ((time == time[rows]) & ~event)
            agree = np.where(risk < risk[rows], 1.0, 0.0) + 0.5 * (risk == risk[rows])
            concordant = weights @ (later * agree).T  # r e
            pairs = weights @ later.T.astype(float)
            own = weights[:, rows[:, 0]]
            uno = own * inverse[:, start : start + step]
            for total, (factor, counted) in enumerate(
                ((own, concordant), (own, pairs), (uno, concordant), (uno, pairs))
            ):
                sums[total] += (factor * counted).sum(axis=1)
        return _divide(sums[0], sums[1]), _divide(sums[2], sums[3])

    def auroc(self, weights: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """Compute the mean of the AUROC at the deciles of the event times.

        At a time t, slides with an event until t are positives, with the weight 1 / G(their time);
        slides observed beyond t are negatives.
        """
        time, event = self.known.time, self.known.event
        inverse = 1 / self._censoring(weights).before(time)
        values = []
        for at in self._deciles:
            case, control = event & (time <= at), time > at
            included = weights * np.where(case, inverse, control)
            values.append(rank_scores(self.known.risk, case, included)[0])
        if not values:
            return np.full(len(weights), np.nan)
        stacked = np.stack(values)
        defined = ~np.isnan(stacked)
        return _divide(np.where(defined, stacked, 0).sum(axis=0), defined.sum(axis=0).astype(float))

    def brier(self, weights: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        """Compute the Brier score, integrated over the times of the curves."""
        if self.curves is None or len(self._brier_times) < 2:
            return np.full(len(weights), np.nan)
        assert self.curves is not None
        time, event, at = self.known.time[:, None], self.known.event[:, None], self._brier_times
        survival = self.curves.survival[:, np.isin(self.curves.times, at)]
        censoring = self._censoring(weights)
        died = np.where(event & (time <= at), survival**2, 0)  # n t
        alive = np.where(time > at, (1 - survival) ** 2, 0)
        by_time = (weights / censoring.before(self.known.time)) @ died
        by_time += _divide(weights @ alive, censoring.at(at), empty=0.0)
        mean = trapezoid(by_time / weights.sum(axis=1, keepdims=True), at, axis=1)
        return np.asarray(mean / (at[-1] - at[0]))

    @cached_property
    def _deciles(self) -> Float[np.ndarray, " t"]:
        """Deciles of the event times beyond which a slide is observed."""
        times = self.known.time[self.known.event]
        if not len(times):
            return np.empty(0)
        deciles = np.unique(np.quantile(times, DECILES, method="inverted_cdf"))
        return np.asarray(deciles[deciles < self.known.time.max()])

    @cached_property
    def _brier_times(self) -> Float[np.ndarray, " t"]:
        """Times of the curves at which slides are still observed."""
        assert self.curves is not None
        times = self.curves.times
        return np.asarray(times[times < self.known.time.max()])

    def _censoring(self, weights: Float[np.ndarray, "r n"]) -> ProductLimit:
        return censoring_curve(self.known.time, self.known.event, weights)

    def undefined_reason(self, name: str) -> str:
        """Return why a metric is undefined."""
        if name == "integrated_brier" and self.curves is None:
            return "undefined: the model predicts risks, not survival curves"
        if not self.known.event.any():
            return "undefined: no event was observed"
        if name == "integrated_brier":
            return "undefined: no two times of the survival curves are within the observation"
        return "undefined: no slide was observed beyond an event"


def _divide(
    numerator: Float[np.ndarray, "..."],
    denominator: Float[np.ndarray, "..."],
    empty: float = np.nan,
) -> Float[np.ndarray, "..."]:
    """Divide; where the denominator is 0, return `empty`."""
    result = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), empty)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result
