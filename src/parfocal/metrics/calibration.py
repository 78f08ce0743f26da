"""Calibration: how far predicted probabilities are from shares of correct predictions.

Source of temperature scaling and of the expected calibration error: Guo et al., "On calibration of
    modern neural networks", ICML 2017.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

BINS = 10
TEMPERATURES = (0.05, 20.0)  # the range in which a temperature is searched


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose probability lies in one bin.

    Args:
        n: number of predictions.
        confidence: mean probability of the predicted class.
        accuracy: share of correct predictions.
    """

    n: int
    confidence: float
    accuracy: float


def reliability(
    truth: Int[np.ndarray, " n"], probabilities: Float[np.ndarray, "n c"], *, bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Group predictions into bins of equal width by the probability of the predicted class.

    Args:
        truth: index of the true class.
        probabilities: probability of each class.
        bins: number of bins; those without a prediction are left out.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return tuple(
        ReliabilityBin(
            int((place == each).sum()),
            float(confidence[place == each].mean()),
            float(correct[place == each].mean()),
        )
        for each in np.unique(place)
    )


def calibration_error(bins: tuple[ReliabilityBin, ...]) -> float | None:
    """Return the expected calibration error; None without predictions.

    It is the mean distance between accuracy and confidence of a bin, weighted by its predictions.
    """
    total = sum(each.n for each in bins)
    if not total:
        return None
    return sum(each.n * abs(each.accuracy - each.confidence) for each in bins) / total


def fit_temperature(logits: Float[np.ndarray, "n c"], truth: Int[np.ndarray, " n"]) -> float:
    """Find the temperature T for which softmax(logits / T) has the smallest cross-entropy.

    The predicted classes stay as they are. Where all predictions are correct, the cross-entropy
    falls with the temperature without end, so the result is 1, which changes nothing.

    Args:
        logits: logits of validation slides.
        truth: index of the true class.

    Raises:
        ValueError: there are no slides.
    """
    if not len(truth):
        raise ValueError("there is no slide to fit a temperature on")
    if (logits.argmax(axis=1) == truth).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(truth)), truth]))

    low, high = np.log(TEMPERATURES)
    found = float(minimize_scalar(loss, bounds=(low, high), method="bounded").x)
    best = min((found, low, high), key=loss)
    return float(np.exp(best))
