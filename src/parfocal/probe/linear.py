"""The linear probe: logistic regression on the features of slides."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

STRENGTHS = tuple(10.0**power for power in range(-5, 3))  # scikit-learn's C, strongest first
MAX_ITERATIONS = 1000


@dataclass(frozen=True, eq=False)
class LabeledFeatures:
    """Features of slides with the index of their class."""

    features: Float[np.ndarray, "n d"]
    truth: Int64[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A probe whose strength of regularization was chosen.

    Args:
        strength: scikit-learn's C.
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
    best, losses = None, {}
    for strength in STRENGTHS:
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=strength, class_weight="balanced", max_iter=MAX_ITERATIONS),
        )
        with warnings.catch_warnings():  # of a weak one, which overfits before it converges
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train.features, train.truth)
        losses[strength] = balanced_loss(model.predict_proba(val.features), val.truth, num_classes)
        if best is None or losses[strength] < losses[best[0]]:
            best = strength, model
    assert best is not None
    probabilities = np.asarray(best[1].predict_proba(test), dtype=np.float64)
    return LinearProbe(best[0], losses, probabilities)


def balanced_loss(
    probabilities: Float[np.ndarray, "n c"], truth: Int64[np.ndarray, " n"], num_classes: int
) -> float:
    """Return the cross-entropy, averaged within each class and then over the classes present."""
    likelihood = probabilities[np.arange(len(truth)), truth]
    loss = -np.log(np.maximum(likelihood, np.finfo(float).tiny))
    classes = [loss[truth == c].mean() for c in range(num_classes) if (truth == c).any()]
    return float(np.mean(classes))
