"""How good the answers are: scores with intervals over patients.

Every score is computed from weighted slides, many weightings at a time. All weights one is the
score itself; a patient drawn twice is a weight of two, so a bootstrap is a table of weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

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
# Without a second class to tell apart from, these have no meaning.
CONTRASTED = ("quadratic_kappa", "auroc_micro", "average_precision_micro")
NEGATIVES = ("negative", "none")  # strata of slides without what the others have
BLOCK = 4_000_000  # numbers in a table at a time, so that memory stays small for any cohort


@dataclass(frozen=True)
class Score:
    """A score with its 95% interval.

    Args:
        value: None where it is not defined.
        low: the 2.5th percentile of the resamples; None where there are none.
        high: the 97.5th.
        left_out: resamples in which the score is not defined, as when a class is missing.
        reason: why something is None.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    left_out: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class Answers:
    """What a model said of some slides (or patients), and the truth.

    Args:
        labels: the classes, in the model's order.
        truth: index of the true class.
        probabilities: a row sums to 1.
        groups: whose each is; what has the same one is drawn together.
    """

    labels: tuple[str, ...]
    truth: Int64[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"]
    groups: tuple[str, ...]

    @property
    def predicted(self) -> Int64[np.ndarray, " n"]:
        """The class of the highest probability; of equal ones, the first."""
        classes: Int64[np.ndarray, " n"] = self.probabilities.argmax(axis=1)
        return classes


def by_patient(answers: Answers) -> Answers:
    """Give one answer a patient: the mean of its slides' probabilities.

    Raises:
        ValueError: the slides of a patient carry different labels, so that the patient has none.
    """
    patients, member = np.unique(np.array(answers.groups), return_inverse=True)
    slides = np.bincount(member)
    truth = np.zeros(len(patients), dtype=np.int64)
    truth[member] = answers.truth
    mixed = np.unique(member[truth[member] != answers.truth])
    if len(mixed):
        found = sorted({answers.labels[c] for c in answers.truth[member == mixed[0]]})
        raise ValueError(
            f"{len(mixed)} of {len(patients)} patients have slides of different labels, as "
            f"{patients[mixed[0]]} ({', '.join(found)}), so a patient has no one label; give the "
            "slides of a patient the same label to have patient-level scores."
        )
    summed = np.zeros((len(patients), len(answers.labels)))
    np.add.at(summed, member, answers.probabilities)
    return Answers(answers.labels, truth, summed / slides[:, None], tuple(patients.tolist()))


def scores(answers: Answers, *, resamples: int = 2000, seed: int = 0) -> dict[str, Score]:
    """Give every score with its 95% percentile bootstrap interval over patients.

    Patients are drawn with replacement, a patient's slides together. A resample in which a score
    is not defined counts for the others only. Where every answer is right all resamples agree,
    so the interval is a point: read it with the number of patients.

    Returns:
        `accuracy`, `balanced_accuracy`, `weighted_f1`, `quadratic_kappa`, `auroc_macro`,
        `auroc_micro`, `average_precision_macro`, `average_precision_micro`; and for each class
        `recall/LABEL`, `auroc/LABEL` and `average_precision/LABEL`, against the rest.

    Raises:
        ValueError: there is no answer.
    """
    if not len(answers.truth):
        raise ValueError("there is no answer to score; every slide failed or none was chosen.")
    value = weighted_scores(answers, np.ones((1, len(answers.truth))))
    at_a_time = BLOCK // answers.probabilities.size
    blocks = [
        weighted_scores(answers, weights)
        for weights in _draws(answers.groups, resamples, seed, at_a_time)
    ]
    return {
        name: _score(
            float(value[name][0]),
            np.concatenate([block[name] for block in blocks] or [np.empty(0)]),
            _reason(name, answers),
        )
        for name in value
    }


def mean_score(
    values: Float[np.ndarray, " n"],
    groups: tuple[str, ...],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Score:
    """Give a mean with its 95% percentile bootstrap interval over patients."""
    means = [
        weights @ values / weights.sum(axis=1)
        for weights in _draws(groups, resamples, seed, BLOCK // len(values))
    ]
    return _score(float(values.mean()), np.concatenate(means or [np.empty(0)]), "")


def strata_scores(
    answers: Answers, strata: tuple[str | None, ...], *, resamples: int = 2000, seed: int = 0
) -> dict[str, tuple[int, Score]]:
    """Give how well each stratum is told from the slides that have nothing, and how many it has.

    A score is the AUROC of 1 - p(label of the negatives), with its interval as in `scores`.

    Args:
        answers: of slides.
        strata: of each; "negative", "none" or no stratum make a slide a negative.
        resamples: of the intervals.
        seed: of these.

    Returns:
        By name, each stratum, `macro + micro` where there are both, and `all` of them together;
        empty where no slide is of a stratum, or the negatives do not have a label of their own.
    """
    names = np.array([(stratum or NEGATIVES[0]).lower() for stratum in strata])
    negative = np.isin(names, NEGATIVES)
    labels = np.unique(answers.truth[negative])
    if len(labels) != 1 or negative.all() or (answers.truth[~negative] == labels[0]).any():
        return {}
    evidence = 1 - answers.probabilities[:, labels[0]]
    pools = {name: names == name for name in dict.fromkeys(names[~negative].tolist())}
    if pools.keys() >= {"macro", "micro"}:
        pools["macro + micro"] = pools["macro"] | pools["micro"]
    pools["all"] = ~negative
    tables = list(_draws(answers.groups, resamples, seed, BLOCK // len(evidence)))
    return {
        name: (int(pool.sum()), _auroc(evidence, pool, pool | negative, tables))
        for name, pool in pools.items()
    }


def _auroc(
    evidence: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    counted: Bool[np.ndarray, " n"],
    tables: Sequence[Float[np.ndarray, "_ n"]],
) -> Score:
    """Give the AUROC of the slides that count, with its interval over tables of weights."""
    once = np.ones((1, len(evidence)))
    value, *drawn = (
        _rank_scores(evidence, positive, weights * counted)[0] for weights in (once, *tables)
    )
    return _score(float(value[0]), np.concatenate(drawn or [np.empty(0)]), "")


def confusion(answers: Answers) -> Int64[np.ndarray, "c c"]:
    """Count slides by true class (row) and predicted class (column)."""
    table = np.zeros((len(answers.labels),) * 2, dtype=np.int64)
    np.add.at(table, (answers.truth, answers.predicted), 1)
    return table


def weighted_scores(
    answers: Answers, weights: Float[np.ndarray, "r n"]
) -> dict[str, Float[np.ndarray, " r"]]:
    """Give every score for each row of weights; NaN where it is not defined."""
    classes = len(answers.labels)
    true = np.eye(classes, dtype=bool)[answers.truth]  # n c
    cells = true[:, :, None] & np.eye(classes, dtype=bool)[answers.predicted][:, None]  # n c c
    table = (weights @ cells.reshape(len(cells), -1)).reshape(-1, classes, classes)  # r c c
    ranked = [
        _rank_scores(answers.probabilities[:, c], true[:, c], weights) for c in range(classes)
    ]
    auroc, precision = np.stack(ranked, axis=2)  # each r c
    micro = _rank_scores(
        answers.probabilities.ravel(), true.ravel(), np.repeat(weights, classes, axis=1)
    )
    one_class = (table.sum(axis=2) > 0).sum(axis=1) < 2
    result = _table_scores(table)
    result["auroc_macro"], result["average_precision_macro"] = auroc.mean(1), precision.mean(1)
    result["auroc_micro"], result["average_precision_micro"] = micro
    for name in CONTRASTED:
        result[name] = np.where(one_class, np.nan, result[name])
    recall = _ratio(np.einsum("rcc->rc", table), table.sum(axis=2))
    for c, label in enumerate(answers.labels):
        result[f"recall/{label}"] = recall[:, c]
        result[f"auroc/{label}"] = auroc[:, c]
        result[f"average_precision/{label}"] = precision[:, c]
    return result


def _table_scores(table: Float[np.ndarray, "r c c"]) -> dict[str, Float[np.ndarray, " r"]]:
    """Give the scores that need only confusion matrices."""
    classes = table.shape[1]
    hits = np.einsum("rcc->rc", table)
    support, called = table.sum(axis=2), table.sum(axis=1)
    total = support.sum(axis=1)
    f1 = _ratio(2 * hits, support + called, empty=0.0)
    distance = (np.arange(classes)[:, None] - np.arange(classes)) ** 2
    expected = np.einsum("ri,rj->rij", support, called) / total[:, None, None]
    disagreement = (distance * table).sum(axis=(1, 2))
    return {
        "accuracy": hits.sum(axis=1) / total,
        "balanced_accuracy": _ratio(hits, support).mean(axis=1),
        "weighted_f1": (f1 * support).sum(axis=1) / total,
        "quadratic_kappa": 1 - _ratio(disagreement, (distance * expected).sum(axis=(1, 2))),
    }


def _rank_scores(
    score: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, "r n"],
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """Give AUROC and average precision of a score, equal scores taken together.

    AUROC = sum of (positives above + half of those level) over negatives / (P N);
    AP = sum of (gain in recall) x precision over thresholds.
    """
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=-np.inf))  # of a run of equal scores
    ranked = weights[:, order]
    above = np.cumsum(ranked, axis=1)[:, last]
    hits = np.cumsum(ranked * positive[order], axis=1)[:, last]
    gained = np.diff(hits, prepend=0.0)
    misses = np.diff(above, prepend=0.0) - gained
    area = (misses * (hits - gained / 2)).sum(axis=1)
    precision = (gained * _ratio(hits, above, empty=0.0)).sum(axis=1)
    positives, negatives = hits[:, -1], above[:, -1] - hits[:, -1]
    auroc = _ratio(area, positives * negatives)
    return auroc, np.where(negatives > 0, _ratio(precision, positives), np.nan)


def _ratio(
    above: Float[np.ndarray, "..."], below: Float[np.ndarray, "..."], *, empty: float = np.nan
) -> Float[np.ndarray, "..."]:
    result = np.full(below.shape, empty)
    np.divide(above, below, out=result, where=below != 0)
    return result


def _draws(
    groups: tuple[str, ...], resamples: int, seed: int, at_a_time: int
) -> Iterator[Float[np.ndarray, "r n"]]:
    """Draw patients with replacement, as a weight for each of their slides."""
    patients, member = np.unique(np.array(groups), return_inverse=True)
    if len(patients) < 2:
        return
    generator = np.random.default_rng(seed)
    even = np.full(len(patients), 1 / len(patients))
    while resamples > 0:
        rows = min(max(1, at_a_time), resamples)
        yield generator.multinomial(len(patients), even, rows)[:, member].astype(float)
        resamples -= rows


def _score(value: float, drawn: Float[np.ndarray, " r"], reason: str) -> Score:
    if np.isnan(value):
        return Score(None, reason=reason)
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Score(value, left_out=len(drawn), reason="no interval: it needs two patients")
    low, high = np.percentile(defined, [2.5, 97.5])
    return Score(value, float(low), float(high), len(drawn) - len(defined))


def _reason(name: str, answers: Answers) -> str:
    """Say why a score is not defined for these answers, where it is not."""
    present = [answers.labels[c] for c in np.unique(answers.truth)]
    wanted = [name.partition("/")[2]] if "/" in name else answers.labels
    missing = [label for label in wanted if label not in present]
    if missing and name not in CONTRASTED:
        return f"not defined: none here is {' or '.join(missing)}"
    return f"not defined: all here are {present[0]}"
