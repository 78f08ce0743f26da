"""Notes that stand once below a table of scores, instead of in its cells."""

from collections.abc import Iterable

from parfocal.metrics.bootstrap import Score

MAX_NAMES = 8  # scores that a note names


def interval_notes(scores: Iterable[tuple[str, Score]]) -> list[str]:
    """Return sentences on scores without a value or an interval, and on undefined resamples.

    >>> perfect = Score(1.0, reason="no interval: it is the same in all 2,000 resamples")
    >>> interval_notes([("AUROC", perfect), ("kappa", perfect)])
    ['No interval (it is the same in all 2,000 resamples): AUROC, kappa.']

    Args:
        scores: each score of the table with its name.
    """
    reasons: dict[str, list[str]] = {}
    counts = []
    for name, score in scores:
        if score.reason:
            reasons.setdefault(score.reason, []).append(name)
        elif score.undefined_resamples:
            defined = score.resamples - score.undefined_resamples
            counts.append(f"{name} {defined:,} of {score.resamples:,}")
    notes = []
    for reason, names in reasons.items():
        what, _, why = reason.partition(": ")
        notes.append(f"{what[0].upper()}{what[1:]}{f' ({why})' if why else ''}: {_some(names)}.")
    if counts:
        notes.append(
            f"Resamples in which a score is defined (others are ignored): {_some(counts)}."
        )
    return notes


def _some(names: list[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
