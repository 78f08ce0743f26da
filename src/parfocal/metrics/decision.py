"""The net benefit of acting on a prediction.

Source: Vickers and Elkin, "Decision curve analysis: a novel method for evaluating prediction
    models", Medical Decision Making 2006.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

STEPS = 99  # thresholds 0.01, 0.02, ..., 0.99


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit over thresholds; that of acting on no patient is 0.

    Args:
        thresholds: probabilities at or above which one acts.
        model: net benefit of acting on the model's predictions.
        everyone: net benefit of acting on every patient.
    """

    thresholds: tuple[float, ...]
    model: tuple[float, ...]
    everyone: tuple[float, ...]


def decision_curve(
    truth: Bool[np.ndarray, " n"], score: Float[np.ndarray, " n"]
) -> DecisionCurve | None:
    """Compute the net benefit: (true positives - false positives * t / (1 - t)) / n.

    Args:
        truth: whether each patient is positive.
        score: predicted probability of being positive.

    Returns:
        The curve; None without patients.
    """
    if not len(truth):
        return None
    thresholds = np.arange(1, STEPS + 1) / (STEPS + 1)
    acted = score >= thresholds[:, None]  # t n
    odds = thresholds / (1 - thresholds)
    model = (acted & truth).mean(axis=1) - odds * (acted & ~truth).mean(axis=1)
    everyone = truth.mean() - odds * (~truth).mean()
    return DecisionCurve(*(tuple(each.tolist()) for each in (thresholds, model, everyone)))
