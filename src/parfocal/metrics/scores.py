"""Every metric with its confidence interval."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from parfocal.metrics.bootstrap import Score, patient_weights, score_with_interval
from parfocal.metrics.exact import proportion_with_interval
from parfocal.metrics.predictions import LabeledPredictions, confusion_matrix
from parfocal.metrics.weighted import NEEDS_TWO_CLASSES, rank_scores, weighted_scores
from parfocal.printable import counts_of_each

# The one list of metrics: the name in files and in code -> the label in reports and logs.
METRICS = {
    "auroc_macro": "macro AUROC",
    "auroc_micro": "micro AUROC",
    "average_precision_macro": "macro average precision",
    "average_precision_micro": "micro average precision",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "weighted_f1": "weighted F1",
    "quadratic_kappa": "quadratic kappa",
}
PROPORTIONS = ("accuracy", "recall")  # with exact intervals; the others by bootstrap
MIN_CLASS = 10  # patients of a class below which scores and intervals are rough
NEGATIVE_STRATA = ("negative", "none")  # strata that mark a slide as a negative


def compute_scores(
    predictions: LabeledPredictions, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Score]:
    """Compute every metric with its 95% confidence interval.

    Proportions (accuracy and recall) have exact intervals, see `proportion_with_interval`. The
    others have percentile bootstrap intervals: patients are drawn with replacement, with all their
    slides. A resample in which a metric is undefined is ignored for that metric only. Where all
    resamples are equal, as where every prediction is correct, there is no interval.

    Args:
        predictions: of slides or patients.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        The metrics of `METRICS`, and for each class `recall/LABEL`, `auroc/LABEL` and
        `average_precision/LABEL`, one class against the rest.

    Raises:
        ValueError: there are no predictions.
    """
    if not len(predictions.truth):
        raise ValueError("no predictions to score: every slide failed or none was selected.")
    blocks = [
        weighted_scores(predictions, weights)
        for weights in patient_weights(
            predictions.groups, resamples, seed, row_size=predictions.probabilities.size
        )
    ]
    scores = {}
    for name, value in point_scores(predictions).items():
        counted = _counts(predictions, name)
        if name.partition("/")[0] in PROPORTIONS and not np.isnan(value):
            scores[name] = replace(_proportion(predictions, name), n=counted)
            continue
        resampled = np.concatenate([block[name] for block in blocks] or [np.empty(0)])
        reason = _undefined_reason(name, predictions)
        scores[name] = replace(score_with_interval(value, resampled, reason), n=counted)
    return scores


def small_classes(predictions: LabeledPredictions) -> str | None:
    """Return a warning that names the classes with under 10 patients; None if there are none.

    Args:
        predictions: of slides or patients.
    """
    groups = np.array(predictions.groups)
    patients = {
        label: len(set(groups[predictions.truth == c].tolist()))
        for c, label in enumerate(predictions.labels)
    }
    few = {label: count for label, count in patients.items() if count < MIN_CLASS}
    if not few:
        return None
    return (
        f"fewer than {MIN_CLASS} patients of a class ({counts_of_each(few)}): scores and "
        "intervals are rough"
    )


def class_counts(predictions: LabeledPredictions) -> dict[str, int]:
    """Return the number of slides of each class."""
    counts = np.bincount(predictions.truth, minlength=len(predictions.labels)).tolist()
    return dict(zip(predictions.labels, counts, strict=True))


def _counts(predictions: LabeledPredictions, name: str) -> dict[str, int]:
    """Return the number of slides of each class that a metric is of."""
    metric, _, label = name.partition("/")
    counts = class_counts(predictions)
    if not label:
        return counts
    own = {label: counts[label]}
    return own if metric == "recall" else own | {"others": len(predictions.truth) - counts[label]}


def _proportion(predictions: LabeledPredictions, name: str) -> Score:
    """Compute the accuracy, or the recall of a class, with its exact interval."""
    label = name.partition("/")[2]
    included = np.ones(len(predictions.truth), dtype=bool)
    if label:
        included = predictions.truth == predictions.labels.index(label)
    correct = (predictions.predicted == predictions.truth)[included].astype(float)
    groups = tuple(np.array(predictions.groups)[included].tolist())
    return proportion_with_interval(correct, groups)


def point_scores(predictions: LabeledPredictions) -> dict[str, float]:
    """Compute every metric without an interval; NaN where it is undefined.

    Args:
        predictions: at least one.

    Returns:
        The metrics by name, as in `compute_scores`.
    """
    truth, predicted = predictions.truth, predictions.predicted
    # AUROC, average precision and kappa have all weights one here, as in the resamples:
    # scikit-learn's differ in the last bits, and its average precision of a perfect ranking may be
    # 0.9999999999999998, outside the interval.
    weighted = weighted_scores(predictions, np.ones((1, len(truth))))
    result = {name: float(values[0]) for name, values in weighted.items()}
    table = confusion_matrix(predictions)
    correct, present, found = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    with np.errstate(invalid="ignore"):  # a class without slides has no recall
        recall = correct / present
    # A class that neither exists nor is predicted has no F1, and no weight either.
    f1 = 2 * correct / np.maximum(present + found, 1)
    result["accuracy"] = float((predicted == truth).mean())
    result["balanced_accuracy"] = float(recall.mean())
    result["weighted_f1"] = float(np.average(f1, weights=present))
    return result


def auroc_by_stratum(
    predictions: LabeledPredictions,
    strata: tuple[str | None, ...],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[int, Score]]:
    """Compute the AUROC of each stratum of positive slides against all negative slides.

    The ranking score is 1 - p(label of the negatives); intervals are those of `compute_scores`.

    Args:
        predictions: of slides.
        strata: stratum of each slide; "negative", "none" and None mark a negative.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        By name, the number of slides and the AUROC of each stratum, of `macro + micro` where both
        exist, and of `all` strata together. Empty where there are no positives or no negatives,
        or where the negatives do not have one label to themselves.
    """
    names = np.array([(stratum or NEGATIVE_STRATA[0]).lower() for stratum in strata])
    negative = np.isin(names, NEGATIVE_STRATA)
    labels = np.unique(predictions.truth[negative])
    if len(labels) != 1 or negative.all() or (predictions.truth[~negative] == labels[0]).any():
        return {}
    evidence = 1 - predictions.probabilities[:, labels[0]]
    pools = {name: names == name for name in dict.fromkeys(names[~negative].tolist())}
    if pools.keys() >= {"macro", "micro"}:
        pools["macro + micro"] = pools["macro"] | pools["micro"]
    pools["all"] = ~negative
    blocks = list(patient_weights(predictions.groups, resamples, seed, row_size=len(evidence)))
    return {
        name: (int(pool.sum()), _auroc(evidence, pool, pool | negative, blocks))
        for name, pool in pools.items()
    }


def _auroc(
    evidence: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    included: Bool[np.ndarray, " n"],
    blocks: Sequence[Float[np.ndarray, "_ n"]],
) -> Score:
    """Compute the AUROC of the included slides, with its interval over blocks of weights."""
    once = np.ones((1, len(evidence)))
    value, *resampled = (
        rank_scores(evidence, positive, weights * included)[0] for weights in (once, *blocks)
    )
    counts = {"positive": int(positive.sum()), "negative": int((included & ~positive).sum())}
    score = score_with_interval(float(value[0]), np.concatenate(resampled or [np.empty(0)]))
    return replace(score, n=counts)


def _undefined_reason(name: str, predictions: LabeledPredictions) -> str:
    """Return why a metric is undefined for these predictions, if it is."""
    present = [predictions.labels[c] for c in np.unique(predictions.truth)]
    needed = [name.partition("/")[2]] if "/" in name else predictions.labels
    missing = [label for label in needed if label not in present]
    if missing and name not in NEEDS_TWO_CLASSES:
        return f"undefined: no slide of class {' or '.join(missing)}"
    return f"undefined: every slide is of class {present[0]}"
