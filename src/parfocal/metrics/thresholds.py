"""Choose a threshold on a score, and score the decisions that it makes."""

import numpy as np
from jaxtyping import Bool, Float

from parfocal.metrics.bootstrap import Score
from parfocal.metrics.exact import proportion_with_interval
from parfocal.operating_point import ThresholdRule

# The name in files and in code -> the label in reports and logs.
THRESHOLD_METRICS = {
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
}


def choose_threshold(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"], rule: ThresholdRule
) -> float:
    """Choose a threshold; an item is positive if its score is at or above it.

    Thresholds halfway between neighboring scores, and between the outermost and 0 or 1, are
    compared. Of equally good ones by Youden's index, the one with the highest sensitivity is
    chosen.

    Args:
        truth: whether each item is positive.
        score: probability of being positive.
        rule: how to choose.

    Raises:
        ValueError: the rule needs both classes, and one has no item.
    """
    if rule.kind == "value":
        assert rule.target is not None
        return rule.target
    if truth.all() or not truth.any():
        missing = "negative" if truth.any() else "positive"
        raise ValueError(f"there is no {missing} slide")
    distinct = np.unique(score)
    last = (distinct[-1] + 1) / 2 if distinct[-1] < 1 else np.nextafter(distinct[-1], 2)
    between = (distinct[1:] + distinct[:-1]) / 2
    thresholds = np.concatenate([[distinct[0] / 2], between, [last]])  # ascending
    positive, negative = np.sort(score[truth]), np.sort(score[~truth])
    sensitivity = 1 - np.searchsorted(positive, thresholds) / len(positive)
    specificity = np.searchsorted(negative, thresholds) / len(negative)
    if rule.kind == "youden":
        index = sensitivity + specificity
        return float(thresholds[np.flatnonzero(index >= index.max() - 1e-12)[0]])
    assert rule.target is not None
    if rule.kind == "sensitivity":
        return float(thresholds[np.flatnonzero(sensitivity >= rule.target - 1e-12)[-1]])
    return float(thresholds[np.flatnonzero(specificity >= rule.target - 1e-12)[0]])


def threshold_scores(
    truth: Bool[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    threshold: float,
    groups: tuple[str, ...],
) -> dict[str, Score]:
    """Compute every metric of `THRESHOLD_METRICS` with its exact interval.

    The number of trials is that of the patients, see `proportion_with_interval`.

    Args:
        truth: whether each slide is positive.
        score: probability of being positive.
        threshold: a slide is predicted positive if its score is at or above it.
        groups: patient id of each slide.
    """
    predicted = score >= threshold
    parts = {
        "sensitivity": (truth, predicted, "positive slide"),
        "specificity": (~truth, ~predicted, "negative slide"),
        "ppv": (predicted, truth, "slide that is predicted positive"),
        "npv": (~predicted, ~truth, "slide that is predicted negative"),
    }
    return {
        name: _share(included, counted, groups, missing)
        for name, (included, counted, missing) in parts.items()
    }


def _share(
    included: Bool[np.ndarray, " n"],
    counted: Bool[np.ndarray, " n"],
    groups: tuple[str, ...],
    missing: str,
) -> Score:
    """Return the share of the included slides that are counted, with its exact interval."""
    if not included.any():
        return Score(None, reason=f"undefined: no {missing}")
    members = tuple(group for group, keep in zip(groups, included, strict=True) if keep)
    return proportion_with_interval(counted[included].astype(float), members)
