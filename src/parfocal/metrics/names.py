"""Names of scores for people."""

from parfocal.metrics.regression import REGRESSION_METRICS
from parfocal.metrics.scores import METRICS
from parfocal.metrics.survival import SURVIVAL_METRICS

# The name in files and in code -> the label in reports and logs.
SCORE_LABELS = (
    METRICS
    | SURVIVAL_METRICS
    | REGRESSION_METRICS
    | {
        "auroc": "AUROC",
        "average_precision": "average precision",
    }
)
LOWER_IS_BETTER = ("mae", "integrated_brier")  # errors


def score_label(name: str) -> str:
    """Return the label of a score, which may be of a class or target.

    >>> score_label("r2"), score_label("auroc/msi")
    ('R²', 'AUROC of msi')

    Args:
        name: name of the score, such as "r2", or "auroc/msi" for that of one class or target.
    """
    metric, slash, part = name.partition("/")
    label = SCORE_LABELS.get(metric, metric.replace("_", " "))
    return f"{label} of {part}" if slash else label


def is_error(name: str) -> bool:
    """Return whether a lower score is better.

    >>> is_error("mae/ki67"), is_error("r2")
    (True, False)

    Args:
        name: name of the score; see `score_label`.
    """
    return name.partition("/")[0] in LOWER_IS_BETTER
