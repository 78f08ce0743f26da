"""The linear probe: logistic regression on the features of slides."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.optimize import minimize
from scipy.special import log_softmax

# Weights of the loss against the penalty, as scikit-learn's C; the strongest penalty first.
STRENGTHS = tuple(10.0**power for power in range(-5, 3))
# As scikit-learn's: a weak penalty overfits before it converges.
STOP = {"maxiter": 1000, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}


@dataclass(frozen=True, eq=False)
class LabeledFeatures:
    """Features of slides with the index of their class."""

    features: Float[np.ndarray, "n d"]
    truth: Int64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A probe whose strength of regularization was chosen.

    Args:
        strength: weight of the loss against the penalty, as scikit-learn's C.
        val_loss: loss on the validation slides, by strength.
        probabilities: class probabilities of the test slides.
    """

    strength: float
    val_loss: dict[float, float]
    probabilities: Float[np.ndarray, "n c"]


def fit_probe(
    train: LabeledFeatures,
    val: LabeledFeatures,
    test: Float[np.ndarray, "n d"],
    num_classes: int,
) -> LinearProbe:
    """Fit probes of several strengths, and apply the one with the lowest validation loss.

    Features are standardized with the mean and the standard deviation of the training slides. The
    loss is the cross-entropy; in training and validation, every class has the same weight.

    Args:
        train: training slides, of every class.
        val: validation slides, at least one.
        test: features of the test slides.
        num_classes: number of classes.
    """
    inputs = _standardized(train.features, val.features, test)
    best, losses = None, {}
    for strength in STRENGTHS:
        model = _fit(inputs[0], train.truth, num_classes, strength)
        losses[strength] = balanced_loss(model.probabilities(inputs[1]), val.truth, num_classes)
        if best is None or losses[strength] < losses[best[0]]:
            best = strength, model
    assert best is not None
    return LinearProbe(best[0], losses, best[1].probabilities(inputs[2]))


def _standardized(
    train: Float[np.ndarray, "n d"], *others: Float[np.ndarray, "_ d"]
) -> list[Float[np.ndarray, "_ d"]]:
    """Return features less their mean in the first, over their standard deviation there."""
    first, *rest = (np.asarray(each, np.float64) for each in (train, *others))
    mean, std = first.mean(axis=0), first.std(axis=0)
    # Constant features differ by rounding errors only.
    is_constant = std <= len(first) * np.finfo(float).eps * np.abs(mean)
    std = np.where(is_constant, 1, std)
    return [(each - mean) / std for each in (first, *rest)]


@dataclass(frozen=True, eq=False)
class _Logistic:
    """A logistic regression: weights and intercepts of the classes."""

    weights: Float[np.ndarray, "c d"]
    intercepts: Float[np.ndarray, " c"]

    def log_probabilities(self, inputs: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        found: Float[np.ndarray, "n c"] = log_softmax(
            inputs @ self.weights.T + self.intercepts, axis=1
        )
        return found

    def probabilities(self, inputs: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        found: Float[np.ndarray, "n c"] = np.exp(self.log_probabilities(inputs))
        return found


def _fit(
    inputs: Float[np.ndarray, "n d"],
    truth: Int64[np.ndarray, " n"],
    num_classes: int,
    strength: float,
) -> _Logistic:
    """Minimize the mean cross-entropy, with equal classes, plus |W|^2 / (2 * strength * n).

    Of two classes, only the difference of the weights is penalized, as in scikit-learn.
    """
    n, d = inputs.shape
    one_hot = np.eye(num_classes)[truth]
    weight = (1 / (num_classes * one_hot.sum(axis=0)))[truth]  # sums to 1
    penalty = 1 / (strength * n)
    free = 1 if num_classes == 2 else num_classes  # rows; the first of two classes has zeros

    def unpack(values: Float[np.ndarray, " p"]) -> _Logistic:
        rows = np.zeros((num_classes, d + 1))
        rows[num_classes - free :] = values.reshape(free, d + 1)
        return _Logistic(rows[:, :d], rows[:, d])

    def loss(values: Float[np.ndarray, " p"]) -> tuple[float, Float[np.ndarray, " p"]]:
        model = unpack(values)
        logs = model.log_probabilities(inputs)
        slope = (np.exp(logs) - one_hot) * weight[:, None]  # n c
        own = slope.T @ inputs + penalty * model.weights
        gradient = np.hstack([own, slope.sum(axis=0)[:, None]])
        value = penalty / 2 * (model.weights**2).sum() - weight @ logs[np.arange(n), truth]
        return float(value), gradient[num_classes - free :].ravel()

    start = np.zeros(free * (d + 1))
    return unpack(minimize(loss, start, jac=True, method="L-BFGS-B", options=STOP).x)


def balanced_loss(
    probabilities: Float[np.ndarray, "n c"], truth: Int64[np.ndarray, " n"], num_classes: int
) -> float:
    """Return the cross-entropy, averaged within each class and then over the classes present."""
    likelihood = probabilities[np.arange(len(truth)), truth]
    loss = -np.log(np.maximum(likelihood, np.finfo(float).tiny))
    classes = [loss[truth == c].mean() for c in range(num_classes) if (truth == c).any()]
    return float(np.mean(classes))
