"""Predicted probabilities together with the true labels."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64


@dataclass(frozen=True)
class LabeledPredictions:
    """Predicted class probabilities and true labels of slides, or of patients.

    Args:
        labels: the classes, in the model's order.
        truth: index of the true class.
        probabilities: predicted probability of each class; each row sums to 1.
        groups: patient id of each row; the bootstrap draws all rows of a patient together.
        threshold: of two classes, the index of one and the probability from which on it is
            predicted; None for the most probable class.
    """

    labels: tuple[str, ...]
    truth: Int64[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"]
    groups: tuple[str, ...]
    threshold: tuple[int, float] | None = None

    @property
    def predicted(self) -> Int64[np.ndarray, " n"]:
        """Index of the most probable class, the first one in case of a tie; or by the threshold."""
        if self.threshold is not None:
            positive, value = self.threshold
            reached = self.probabilities[:, positive] >= value
            return np.where(reached, positive, 1 - positive).astype(np.int64)
        classes: Int64[np.ndarray, " n"] = self.probabilities.argmax(axis=1)
        return classes

    @property
    def size(self) -> int:
        """Number of probabilities."""
        return self.probabilities.size

    def weighted(self, weights: Float[np.ndarray, "r n"]) -> dict[str, Float[np.ndarray, " r"]]:
        """Compute every metric for each row of weights; see `weighted_scores`."""
        from parfocal.metrics.weighted import weighted_scores  # noqa: PLC0415 (imports this module)

        return weighted_scores(self, weights)


def average_by_patient(predictions: LabeledPredictions) -> LabeledPredictions:
    """Return one row per patient, the mean of the probabilities of its slides.

    Raises:
        ValueError: slides of one patient have different labels, so the patient has no label.
    """
    patients, member = np.unique(np.array(predictions.groups), return_inverse=True)
    num_slides = np.bincount(member)
    truth = np.zeros(len(patients), dtype=np.int64)
    truth[member] = predictions.truth
    ambiguous = np.unique(member[truth[member] != predictions.truth])
    if len(ambiguous):
        first = ambiguous[0]
        labels = sorted({predictions.labels[c] for c in predictions.truth[member == first]})
        raise ValueError(
            f"{len(ambiguous)} of {len(patients)} patients have slides with different labels, for "
            f"example {patients[first]} ({', '.join(labels)}). Patient-level scores need one label "
            "per patient."
        )
    total = np.zeros((len(patients), len(predictions.labels)))
    np.add.at(total, member, predictions.probabilities)
    return LabeledPredictions(
        predictions.labels,
        truth,
        total / num_slides[:, None],
        tuple(patients.tolist()),
        predictions.threshold,
    )


def confusion_matrix(predictions: LabeledPredictions) -> Int64[np.ndarray, "c c"]:
    """Count slides by true class (row) and predicted class (column)."""
    table = np.zeros((len(predictions.labels), len(predictions.labels)), np.int64)
    np.add.at(table, (predictions.truth, predictions.predicted), 1)
    return table
