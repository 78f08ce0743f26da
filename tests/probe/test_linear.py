"""The linear probe, compared with a Newton solver and plain loops."""

import numpy as np
import pytest

from parfocal.probe.linear import STRENGTHS, LabeledFeatures, balanced_loss, fit_probe


def softmax(scores: np.ndarray) -> np.ndarray:
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def newton(
    features: np.ndarray, truth: np.ndarray, classes: int, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Minimize |W|^2 / 2 + C * sum of w_i * cross-entropy_i; the intercept is not penalized."""
    n, d = features.shape
    inputs = np.hstack([features, np.ones((n, 1))])
    weight = np.array([n / (classes * (truth == c).sum()) for c in truth]) * strength
    one_hot = np.eye(classes)[truth]
    penalty = np.diag(np.tile([*[1.0] * d, 0.0], classes))
    solution = np.zeros(classes * (d + 1))
    for _ in range(100):
        p = softmax(inputs @ solution.reshape(classes, d + 1).T)
        gradient = ((p - one_hot) * weight[:, None]).T @ inputs
        hessian = penalty.copy()
        for a in range(classes):
            for b in range(classes):
                factor = weight * p[:, a] * ((a == b) - p[:, b])
                rows, columns = (
                    slice(a * (d + 1), (a + 1) * (d + 1)),
                    slice(b * (d + 1), (b + 1) * (d + 1)),
                )
                hessian[rows, columns] += inputs.T @ (inputs * factor[:, None])
        step = np.linalg.lstsq(hessian, gradient.ravel() + penalty @ solution, rcond=None)[0]
        solution -= step
        if np.abs(step).max() < 1e-12:
            break
    found = solution.reshape(classes, d + 1)
    return found[:, :d], found[:, d]


def draw(generator: np.random.Generator, n: int, classes: int) -> LabeledFeatures:
    truth = np.concatenate([np.arange(classes), generator.integers(0, classes, n - classes)])
    features = generator.normal(size=(n, 3)) * (1, 20, 0.1) + (0, 5, 3)
    features[:, 0] += truth
    return LabeledFeatures(features, truth.astype(np.int64))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_is_a_balanced_logistic_regression_on_standardized_features(classes: int):
    generator = np.random.default_rng(classes)
    train, val, test = (draw(generator, n, classes) for n in (40, 15, 10))
    fitted = fit_probe(train, val, test.features, classes)
    mean, std = train.features.mean(axis=0), train.features.std(axis=0)
    losses = {}
    for strength in STRENGTHS:
        # With two classes, scikit-learn penalizes the one difference of both rows of weights,
        # whose square is twice the sum of their squares.
        own = strength / 2 if classes == 2 else strength
        weights, intercept = newton((train.features - mean) / std, train.truth, classes, own)
        probabilities = {
            name: softmax((each.features - mean) / std @ weights.T + intercept)
            for name, each in (("val", val), ("test", test))
        }
        by_class = [
            np.mean([-np.log(p[c]) for p in probabilities["val"][val.truth == c]])
            for c in range(classes)
            if c in val.truth
        ]
        losses[strength] = float(np.mean(by_class)), probabilities["test"]
    assert fitted.val_loss == pytest.approx({c: loss for c, (loss, _) in losses.items()}, abs=1e-3)
    best = min(losses, key=lambda strength: losses[strength][0])
    assert fitted.strength == best
    np.testing.assert_allclose(fitted.probabilities, losses[best][1], atol=1e-3)


def test_the_loss_weighs_every_class_the_same():
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.75, 0.25]])
    loss = balanced_loss(probabilities, np.array([0, 0, 1]), 2)
    assert loss == pytest.approx((np.log(2) + np.log(4)) / 2)


def test_a_class_without_validation_slides_is_left_out_of_the_loss():
    assert balanced_loss(np.array([[0.25, 0.5, 0.25]]), np.array([0]), 3) == pytest.approx(
        np.log(4)
    )


def test_equal_losses_choose_the_strongest_regularization():
    train = LabeledFeatures(np.zeros((4, 2)), np.array([0, 1, 0, 1]))
    assert fit_probe(train, train, np.zeros((1, 2)), 2).strength == STRENGTHS[0]
