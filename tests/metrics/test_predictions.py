import numpy as np
import pytest

from parfocal.metrics import LabeledPredictions, average_by_patient, confusion_matrix


def test_the_confusion_matrix_has_the_truth_in_rows():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    predictions = LabeledPredictions(
        ("benign", "cancer"), np.array([0, 0, 1]), probabilities, ("a", "b", "c")
    )
    assert confusion_matrix(predictions).tolist() == [[1, 1], [0, 1]]


def test_of_equal_probabilities_the_first_class_is_predicted():
    predictions = LabeledPredictions(("a", "b"), np.array([1]), np.array([[0.5, 0.5]]), ("p",))
    assert predictions.predicted.tolist() == [0]


def test_the_probabilities_of_a_patient_are_the_mean_of_its_slides():
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    slides = LabeledPredictions(("a", "b"), np.array([1, 0, 1]), probabilities, ("007", "7", "007"))
    patients = average_by_patient(slides)
    assert patients.groups == ("007", "7")
    assert patients.truth.tolist() == [1, 0]
    assert patients.probabilities == pytest.approx(np.array([[0.55, 0.45], [0.3, 0.7]]))


def test_a_patient_with_two_labels_is_refused():
    slides = LabeledPredictions(
        ("benign", "cancer"), np.array([1, 0, 1]), np.eye(2)[[1, 0, 1]], tuple("xxy")
    )
    message = r"1 of 2 patients have slides with different labels, for example x \(benign, cancer\)"
    with pytest.raises(ValueError, match=message):
        average_by_patient(slides)
