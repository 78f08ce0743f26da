"""Product-limit (Kaplan-Meier) curves: of events and of censoring, for many rows of weights.

Source: Kaplan and Meier, "Nonparametric estimation from incomplete observations", JASA 1958. At
equal times, events come before censoring, as in R's `survival`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.stats import CensoredData, chi2, ecdf

MIN_GROUP = 2  # groups that a log-rank test needs


@dataclass(frozen=True)
class ProductLimit:
    """A step function that starts at 1 and falls at some times, for each row of weights.

    Args:
        times: distinct times, ascending.
        values: value from each time on.
    """

    times: Float[np.ndarray, " t"]
    values: Float[np.ndarray, "r t"]

    def at(self, times: Float[np.ndarray, " m"]) -> Float[np.ndarray, "r m"]:
        """Return the values at some times."""
        return self._with_start[:, np.searchsorted(self.times, times, side="right")]

    def before(self, times: Float[np.ndarray, " m"]) -> Float[np.ndarray, "r m"]:
        """Return the values just before some times; 1 where nobody was at risk any more."""
        values = self._with_start[:, np.searchsorted(self.times, times, side="left")]
        return np.where(values > 0, values, 1.0)

    @property
    def _with_start(self) -> Float[np.ndarray, "r m"]:
        return np.concatenate([np.ones((len(self.values), 1)), self.values], axis=1)


def censoring_curve(
    time: Float[np.ndarray, " n"],
    event: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, "r n"],
) -> ProductLimit:
    """Compute the probability of not yet being censored, for each row of weights.

    Args:
        time: time of each slide.
        event: whether it ends in an event.
        weights: weight of each slide.
    """
    times, place = np.unique(time, return_inverse=True)
    events, censored = (
        _sum_at(weights * kind, place, len(times)) for kind in (event, ~event)
    )  # each r t
    leaving = events + censored
    at_risk = np.flip(np.cumsum(np.flip(leaving, axis=1), axis=1), axis=1) - events
    hazard = np.zeros_like(at_risk)
    np.divide(censored, at_risk, out=hazard, where=at_risk > 0)
    return ProductLimit(times, np.cumprod(1 - hazard, axis=1))


def _sum_at(
    weights: Float[np.ndarray, "r n"], place: Int64[np.ndarray, " n"], size: int
) -> Float[np.ndarray, "r t"]:
    """Sum the weights of the slides at each distinct time."""
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(size))
    return np.asarray(np.add.reduceat(weights[:, order], starts, axis=1))


@dataclass(frozen=True)
class SurvivalGroup:
    """The Kaplan-Meier curve of a group of patients.

    Args:
        name: name of the group.
        n: number of patients.
        events: number of observed events.
        times: times at which the curve falls, after 0.
        survival: share free of the event from each of these times on.
        low: lower end of the 95% interval (log-log) at these times; NaN where undefined.
        high: upper end of the interval.
        censored: times at which observation ended without an event.
        median: first time at which the curve is at or below one half; None if it stays above.
    """

    name: str
    n: int
    events: int
    times: tuple[float, ...]
    survival: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    censored: tuple[float, ...]
    median: float | None


@dataclass(frozen=True)
class RiskGroups:
    """Kaplan-Meier curves of patients grouped by predicted risk, and the log-rank test.

    Args:
        groups: the groups, lowest risk first.
        chi2: statistic of the log-rank test; None where it is undefined.
        p: its p-value.
        reason: why the test is undefined.
    """

    groups: tuple[SurvivalGroup, ...]
    chi2: float | None
    p: float | None
    reason: str | None = None


def kaplan_meier(
    name: str, time: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> SurvivalGroup:
    """Compute the Kaplan-Meier curve of a group.

    Args:
        name: name of the group.
        time: time of each patient; at least one.
        event: whether it ends in an event.
    """
    censored = tuple(np.sort(time[~event]).tolist())
    if not event.any():
        return SurvivalGroup(name, len(time), 0, (), (), (), (), censored, None)
    curve = ecdf(CensoredData.right_censored(time, ~event)).sf
    falls = np.isin(curve.quantiles, time[event])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # undefined where the curve is 0
        interval = curve.confidence_interval(method="log-log")
    low, high = (
        tuple(float(end) if np.isfinite(end) else None for end in side.probabilities[falls])
        for side in (interval.low, interval.high)
    )
    times, survival = curve.quantiles[falls], curve.probabilities[falls]
    below = np.flatnonzero(survival <= 0.5 + 1e-12)
    median = float(times[below[0]]) if len(below) else None
    return SurvivalGroup(
        name,
        len(time),
        int(event.sum()),
        tuple(times.tolist()),
        tuple(survival.tolist()),
        low,
        high,
        censored,
        median,
    )


def log_rank(
    time: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"], group: Int64[np.ndarray, " n"]
) -> tuple[float, float] | None:
    """Compute the log-rank test of any number of groups.

    Args:
        time: time of each patient.
        event: whether it ends in an event.
        group: index of the group of each patient.

    Returns:
        The statistic and its p-value; None where there are fewer than two groups with patients at
        risk at an event.
    """
    members = group[:, None] == np.unique(group)  # n g
    times = np.unique(time[event])
    at_risk = (time[:, None] >= times).T.astype(float) @ members  # t g
    deaths = ((time[:, None] == times) & event[:, None]).T.astype(float) @ members
    total, died = at_risk.sum(axis=1), deaths.sum(axis=1)
    share = at_risk / total[:, None]
    gap = (deaths - died[:, None] * share).sum(axis=0)
    factor = died * (total - died) / np.maximum(total - 1, 1)
    variance = np.diag(factor @ share) - np.einsum("t,tg,th->gh", factor, share, share)
    degrees = int(np.linalg.matrix_rank(variance, hermitian=True)) if len(times) else 0
    if not degrees:
        return None
    statistic = float(gap @ np.linalg.pinv(variance, hermitian=True) @ gap)
    return statistic, float(chi2.sf(statistic, degrees))


def risk_groups(
    risk: Float[np.ndarray, " n"],
    time: Float[np.ndarray, " n"],
    event: Bool[np.ndarray, " n"],
    names: Sequence[str] = ("low risk", "medium risk", "high risk"),
) -> RiskGroups:
    """Group patients by quantiles of the predicted risk, and compare their Kaplan-Meier curves.

    Args:
        risk: predicted risk of each patient.
        time: time of each patient; rows with an unknown time or risk are left out.
        event: whether it ends in an event.
        names: name of each group, lowest risk first; three groups are tertiles.
    """
    known = np.isfinite(risk) & np.isfinite(time)
    risk, time, event = risk[known], time[known], event[known]
    if not len(risk):
        return RiskGroups((), None, None, "undefined: no risk with a known time")
    cuts = np.quantile(risk, np.arange(1, len(names)) / len(names))
    group = np.searchsorted(cuts, risk, side="left")
    groups = tuple(
        kaplan_meier(names[index], time[group == index], event[group == index])
        for index in np.unique(group)
    )
    if len(groups) < MIN_GROUP:
        return RiskGroups(groups, None, None, "undefined: all patients have the same risk")
    test = log_rank(time, event, group)
    if test is None:
        return RiskGroups(
            groups, None, None, "undefined: no event was observed with several groups"
        )
    return RiskGroups(groups, *test)


@dataclass(frozen=True)
class SurvivalBaseline:
    """The cumulative baseline hazard of a Cox model, after Breslow.

    Args:
        times: event times of the training, ascending.
        cumulative_hazard: hazard accumulated until each time, for a log risk of 0.
    """

    times: tuple[float, ...]
    cumulative_hazard: tuple[float, ...]

    def survival(
        self, log_risk: Float[np.ndarray, " n"], times: Float[np.ndarray, " t"]
    ) -> Float[np.ndarray, "n t"]:
        """Compute the probability of no event until some times: exp(-H(t) exp(log risk)).

        Args:
            log_risk: the model's output for each slide.
            times: times in the unit of the training.
        """
        steps = np.concatenate([[0.0], self.cumulative_hazard])
        hazard = steps[np.searchsorted(np.array(self.times), times, side="right")]
        return np.asarray(np.exp(-hazard * np.exp(log_risk)[:, None]))


def breslow(
    time: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"], log_risk: Float[np.ndarray, " n"]
) -> SurvivalBaseline:
    """Estimate the baseline hazard of a Cox model from its training slides.

    H(t) = sum over event times s <= t of (events at s) / (sum of exp(log risk) at risk at s).
    Source: Breslow, discussion of Cox, "Regression models and life-tables", JRSS B 1972.

    Args:
        time: time of each slide.
        event: whether it ends in an event; without any, the hazard is 0.
        log_risk: the model's output for each slide.
    """
    times, deaths = np.unique(time[event], return_counts=True)
    at_risk = (time[:, None] >= times).T.astype(float) @ np.exp(log_risk)
    hazard = np.cumsum(deaths / at_risk)
    return SurvivalBaseline(tuple(times.tolist()), tuple(hazard.tolist()))
