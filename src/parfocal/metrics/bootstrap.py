"""Percentile bootstrap over patients: a resample is a row of weights, one weight per slide.

A patient that is drawn twice gives each of its slides the weight 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

# Number of values in a block of resamples; limits memory to some tens of MB for any cohort.
BLOCK_SIZE = 4_000_000
EQUAL = 1e-9  # values closer than this differ by rounding


@dataclass(frozen=True)
class Score:
    """A score with its 95% confidence interval.

    Args:
        value: the score; None where it is undefined.
        low: 2.5th percentile over the resamples; None where there is no interval.
        high: 97.5th percentile over the resamples.
        undefined_resamples: number of resamples in which the score is undefined, for example
            because a class is missing; the interval ignores them.
        reason: why the value or the interval is None.
        interval: how the interval was computed: "bootstrap" over patients, "clopper-pearson",
            which is exact, or "delong"; None where there is none.
        resamples: number of resamples, including the undefined ones; 0 without bootstrap.
        n: number of slides of each class that the score is of; None for other averages.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined_resamples: int = 0
    reason: str | None = None
    interval: Literal["bootstrap", "clopper-pearson", "delong"] | None = None
    resamples: int = 0
    n: dict[str, int] | None = None

    @property
    def text(self) -> str:
        """The score with three decimals and its interval, or the reasons why they are undefined.

        Undefined resamples are counted.

        >>> Score(0.9, 0.85, 1.0, 20, interval="bootstrap", resamples=2000).text
        '0.900 (0.850 to 1.000; 1,980 of 2,000 resamples)'
        """
        if self.value is None:
            return str(self.reason)
        if self.low is None or self.high is None:
            return f"{self.value:.3f}" + (f" ({self.reason})" if self.reason else "")
        count = ""
        if self.undefined_resamples:
            defined = self.resamples - self.undefined_resamples
            count = f"; {defined:,} of {self.resamples:,} resamples"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}{count})"

    @property
    def short(self) -> str:
        """The score and its interval for the cell of a table; `interval_notes` has the reasons.

        >>> Score(1.0, reason="no interval: it is the same in all 2,000 resamples").short
        '1.000 (no interval)'
        """
        what = "" if self.reason is None else self.reason.partition(": ")[0]
        if self.value is None:
            return what or "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}" + (f" ({what})" if what else "")
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def mean_with_interval(
    values: Float[np.ndarray, " n"],
    groups: tuple[str, ...],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Score:
    """Compute the mean over slides with its 95% percentile bootstrap interval over patients.

    Args:
        values: value of each slide.
        groups: patient id of each slide.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.
    """
    means = [
        weights @ values / weights.sum(axis=1)
        for weights in patient_weights(groups, resamples, seed, row_size=len(values))
    ]
    return score_with_interval(float(values.mean()), np.concatenate(means or [np.empty(0)]))


def patient_weights(
    groups: tuple[str, ...], resamples: int, seed: int, *, row_size: int
) -> Iterator[Float[np.ndarray, "r n"]]:
    """Draw patients with replacement and yield the weights of their slides, in blocks of rows.

    Args:
        groups: patient id of each slide.
        resamples: number of rows in all blocks together; with a single patient there are none.
        seed: seed of the resampling.
        row_size: number of values that the caller computes per row; sets the size of a block.
    """
    patients, member = np.unique(np.array(groups), return_inverse=True)
    if len(patients) < 2:
        return
    generator = np.random.default_rng(seed)
    uniform = np.full(len(patients), 1 / len(patients))
    block = max(1, BLOCK_SIZE // row_size)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        yield generator.multinomial(len(patients), uniform, rows)[:, member].astype(float)


def score_with_interval(
    value: float, resampled: Float[np.ndarray, " r"], undefined_reason: str = ""
) -> Score:
    """Combine a score with the percentiles of its resampled values.

    Args:
        value: the score; NaN where it is undefined.
        resampled: the score of each resample; NaN where it is undefined.
        undefined_reason: the reason to record where the score is undefined.
    """
    if np.isnan(value):
        return Score(None, reason=undefined_reason)
    defined = resampled[~np.isnan(resampled)]
    undefined = len(resampled) - len(defined)
    reason = no_interval_reason(resampled)
    if reason is not None:
        return Score(value, None, None, undefined, reason, resamples=len(resampled))
    low, high = np.percentile(defined, [2.5, 97.5])
    ends = float(low), float(high)
    return Score(value, *ends, undefined, interval="bootstrap", resamples=len(resampled))


def no_interval_reason(resampled: Float[np.ndarray, " r"]) -> str | None:
    """Return why resampled values give no interval; None if they give one.

    Where all resamples are equal, as those of a perfect score, they say nothing about how certain
    it is.

    Args:
        resampled: the score of each resample; NaN where it is undefined.
    """
    defined = resampled[~np.isnan(resampled)]
    if not len(resampled):
        return "no interval: it needs at least two patients"
    if not len(defined):
        return f"no interval: it is undefined in all {len(resampled):,} resamples"
    if np.ptp(defined) < EQUAL:
        where = "" if len(defined) == len(resampled) else " in which it is defined"
        return f"no interval: it is the same in all {len(defined):,} resamples{where}"
    return None
