"""The interval of an AUROC, and the test of two AUROCs of the same patients, after DeLong.

Source: DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated
    receiver operating characteristic curves: a nonparametric approach", Biometrics 1988; computed
    from ranks as in Sun and Xu, IEEE Signal Processing Letters 2014.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import norm, rankdata

from parfocal.metrics.bootstrap import Score

Z95 = float(norm.ppf(0.975))


@dataclass(frozen=True)
class PairedTest:
    """The difference of the AUROCs of two scores of the same patients.

    Args:
        difference: the first AUROC minus the second; None where it is undefined.
        low: lower end of the 95% interval; None where there is no interval.
        high: upper end of the interval.
        z: difference divided by its standard error.
        p: two-sided p-value.
        reason: why a value is None.
    """

    difference: float | None
    low: float | None = None
    high: float | None = None
    z: float | None = None
    p: float | None = None
    reason: str | None = None

    @property
    def text(self) -> str:
        """The p-value in words; empty without a test.

        >>> PairedTest(0.1, 0.02, 0.18, 2.4, 0.0164).text, PairedTest(0.2, p=1e-5).text
        ('DeLong p = 0.016', 'DeLong p < 0.001')
        """
        if self.p is None:
            return ""
        return "DeLong p < 0.001" if self.p < 0.001 else f"DeLong p = {self.p:.3f}"


def delong_interval(truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]) -> Score:
    """Compute an AUROC with its 95% DeLong interval; each row is an independent unit, a patient.

    Args:
        truth: whether each patient is positive.
        score: the higher, the more likely positive.
    """
    areas = _areas(truth, score[None])
    if areas is None:
        return Score(None, reason=_one_class(truth))
    value, variance = float(areas[0][0]), areas[1]
    if variance is None or variance[0, 0] <= 0:
        return Score(value, reason=_no_variance(truth))
    half = Z95 * float(np.sqrt(variance[0, 0]))
    return Score(value, max(0.0, value - half), min(1.0, value + half), interval="delong")


def delong_test(
    truth: Bool[np.ndarray, " n"],
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
) -> PairedTest:
    """Test whether two scores of the same patients have the same AUROC.

    Args:
        truth: whether each patient is positive.
        first: score of one model, higher for positive.
        second: score of the other model.
    """
    areas = _areas(truth, np.stack([first, second]))
    if areas is None:
        return PairedTest(None, reason=_one_class(truth))
    (one, other), variance = areas
    difference = float(one - other)
    if variance is None:
        return PairedTest(difference, reason=_no_variance(truth))
    squared = float(variance[0, 0] + variance[1, 1] - 2 * variance[0, 1])
    if squared <= 1e-16:
        reason = "no test: both scores rank the patients alike"
        return PairedTest(difference, reason=reason)
    error = float(np.sqrt(squared))
    z = difference / error
    low, high = difference - Z95 * error, difference + Z95 * error
    return PairedTest(difference, low, high, z, float(2 * norm.sf(abs(z))))


def _areas(
    truth: Bool[np.ndarray, " n"], scores: Float[np.ndarray, "m n"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m m"] | None] | None:
    """Compute AUROCs and their covariance.

    Returns:
        The AUROCs, and the covariance or None with a single patient of a class; None with no
        patient of one.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    ranks = rankdata(scores, axis=1)
    above = (ranks[:, truth] - rankdata(scores[:, truth], axis=1)) / negatives
    below = 1 - (ranks[:, ~truth] - rankdata(scores[:, ~truth], axis=1)) / positives
    areas = above.mean(axis=1)
    if positives < 2 or negatives < 2:
        return areas, None
    variance = np.atleast_2d(np.cov(above)) / positives + np.atleast_2d(np.cov(below)) / negatives
    return areas, variance


def _one_class(truth: Bool[np.ndarray, " n"]) -> str:
    if not len(truth):
        return "undefined: no patient"
    return f"undefined: every patient is {'positive' if truth[0] else 'negative'}"


def _no_variance(truth: Bool[np.ndarray, " n"]) -> str:
    if min(int(truth.sum()), int((~truth).sum())) < 2:
        return "no interval: it needs two positive and two negative patients"
    return "no interval: all positive patients rank above, or below, all negative ones"
