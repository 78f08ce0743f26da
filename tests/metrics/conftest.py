"""Random predictions for the tests of metrics."""

import numpy as np

from parfocal.metrics import LabeledPredictions

LABELS = ("benign", "in situ", "invasive")


def random_predictions(classes, slides, *, patients=None, ties=True, seed=0):
    """Return predictions that are better than chance, by default with many ties."""
    generator = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), generator.integers(classes, size=slides - classes)])
    raw = generator.random((slides, classes)) + 0.5 * np.eye(classes)[truth]
    if ties:
        raw = np.round(raw * 4) + 1
    groups = [f"p{i % (patients or slides)}" for i in range(slides)]
    return LabeledPredictions(
        LABELS[:classes], truth, raw / raw.sum(axis=1, keepdims=True), tuple(groups)
    )
