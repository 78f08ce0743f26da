"""Exact confidence intervals of proportions.

Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of
    the binomial", Biometrika 1934.
"""

import numpy as np
from jaxtyping import Float
from scipy.stats import beta

from parfocal.metrics.bootstrap import Score

ALPHA = 0.05


def exact_interval(successes: float, trials: float) -> tuple[float, float]:
    """Return the 95% Clopper-Pearson interval of a proportion.

    >>> tuple(round(end, 4) for end in exact_interval(8, 10))
    (0.4439, 0.9748)

    Args:
        successes: number of successes; need not be whole.
        trials: number of independent trials, above 0.
    """
    failures = trials - successes
    low = beta.ppf(ALPHA / 2, successes, failures + 1) if successes > 0 else 0.0
    high = beta.ppf(1 - ALPHA / 2, successes + 1, failures) if failures > 0 else 1.0
    return float(low), float(high)


def proportion_with_interval(values: Float[np.ndarray, " n"], groups: tuple[str, ...]) -> Score:
    """Compute a share of slides with its exact interval; the unit of the interval is the patient.

    Slides of one patient are not independent, so the number of trials is that of the patients. It
    is that of the slides where every patient has one; otherwise the interval is on the safe side.

    Args:
        values: 1 for each slide that counts, 0 for the others; at least one.
        groups: patient id of each slide.
    """
    share, patients = float(values.mean()), len(set(groups))
    low, high = exact_interval(share * patients, patients)
    return Score(share, low, high, interval="clopper-pearson")
