"""What clinics ask of an evaluation: decisions at a threshold, calibration, benefit, survival.

DeLong intervals, decision curves and Kaplan-Meier curves have one unit per patient, with the mean
of the answers for its slides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from parfocal.evaluate.result import SlideResult
from parfocal.metrics import (
    LabeledPredictions,
    Score,
    SlideDetections,
    average_by_patient,
    calibration_error,
    decision_curve,
    delong_interval,
    froc,
    reliability,
    risk_groups,
    threshold_scores,
)
from parfocal.operating_point import OperatingPoint
from parfocal.tasks import Answer, Task
from parfocal.tasks.hazards import Hazards
from parfocal.tasks.multilabel import Multilabel
from parfocal.tasks.survival import Survival


def classification_entries(
    predictions: LabeledPredictions, point: OperatingPoint | None
) -> dict[str, object]:
    """Return entries of metrics.json for a task with classes.

    Args:
        predictions: of slides.
        point: the thresholds and the temperature of the model; None without.
    """
    bins = reliability(predictions.truth, predictions.probabilities)
    entries: dict[str, object] = {
        "calibration": {
            "error": calibration_error(bins),
            "bins": [asdict(each) for each in bins],
            "temperature": None if point is None else point.temperature,
        }
    }
    try:
        patients: LabeledPredictions | None = average_by_patient(predictions)
    except ValueError:  # slides of a patient have different labels
        patients = None
    if patients is not None:
        entries["auroc_delong"] = {
            label: asdict(
                delong_interval(
                    patients.truth == c, np.ascontiguousarray(patients.probabilities[:, c])
                )
            )
            for c, label in enumerate(patients.labels)
        }
        if len(patients.labels) == 2:
            curve = decision_curve(
                patients.truth == 1, np.ascontiguousarray(patients.probabilities[:, 1])
            )
            if curve is not None:
                entries["decision_curve"] = {"label": patients.labels[1], **asdict(curve)}
    if point is not None:
        labels = point.thresholds
        entries["operating_point"] = _operating_point(
            point, dict.fromkeys(labels, predictions), dict.fromkeys(labels, patients)
        )
    return entries


def multilabel_entries(
    task: Task, results: Sequence[SlideResult], point: OperatingPoint | None
) -> dict[str, object]:
    """Return entries of metrics.json for labels of which several may be true.

    Args:
        task: the task; another than multilabel has no such entries.
        results: the predictions.
        point: the thresholds of the model; None without.
    """
    if not isinstance(task, Multilabel):
        return {}
    slides, patients = label_predictions(task, results)
    entries: dict[str, object] = {
        "auroc_delong": {
            label: asdict(
                delong_interval(each.truth == 1, np.ascontiguousarray(each.probabilities[:, 1]))
            )
            for label, each in patients.items()
            if each is not None and len(each.truth)
        }
    }
    if point is not None:
        entries["operating_point"] = _operating_point(point, slides, patients)
    return entries


def label_predictions(
    task: Multilabel, results: Sequence[SlideResult]
) -> tuple[dict[str, LabeledPredictions], dict[str, LabeledPredictions | None]]:
    """Return the predictions of each label, for slides and for patients.

    The probability of a patient is the mean over its slides; None where they differ in the label.
    """
    answers = [Answer(outputs=result.outputs) for result in results]
    slides = {
        label: task.predictions([result.slide for result in results], answers, label)
        for label in task.targets
    }
    patients: dict[str, LabeledPredictions | None] = {}
    for label, each in slides.items():
        try:
            patients[label] = average_by_patient(each) if len(each.truth) else each
        except ValueError:
            patients[label] = None
    return slides, patients


def _operating_point(
    point: OperatingPoint,
    slides: Mapping[str, LabeledPredictions],
    patients: Mapping[str, LabeledPredictions | None],
) -> dict[str, object]:
    """Return the thresholds with the scores of the decisions that they make.

    Args:
        point: the thresholds.
        slides: predictions for slides, by label.
        patients: predictions for patients, by label; None where a patient has no one truth.
    """
    thresholds = {}
    for label, threshold in point.thresholds.items():
        entry: dict[str, object] = {"chosen": asdict(threshold)}
        for name, predictions in (("slides", slides[label]), ("patients", patients[label])):
            scores = None if predictions is None else _at(predictions, label, threshold.value)
            entry[name] = None if scores is None else {k: asdict(v) for k, v in scores.items()}
        thresholds[label] = entry
    return {
        "rule": point.rule,
        "chosen_on": {"slides": point.slides, "patients": point.patients},
        "note": point.note,
        "temperature": point.temperature,
        "text": point.summary,
        "thresholds": thresholds,
    }


def _at(predictions: LabeledPredictions, label: str, value: float) -> dict[str, Score]:
    c = predictions.labels.index(label)
    score = np.ascontiguousarray(predictions.probabilities[:, c])
    return threshold_scores(predictions.truth == c, score, value, predictions.groups)


def operating_text(
    predictions: LabeledPredictions | Mapping[str, LabeledPredictions], point: OperatingPoint | None
) -> str:
    """Return sensitivity and specificity at the threshold in one line; empty without.

    >>> operating_text({}, None)
    ''

    Args:
        predictions: of slides; for labels of which several may be true, by label.
        point: the thresholds of the model; None without.
    """
    if point is None or not point.thresholds:
        return ""
    parts = []
    for label, threshold in point.thresholds.items():
        own = predictions[label] if isinstance(predictions, Mapping) else predictions
        scores = _at(own, label, threshold.value)
        rates = ", ".join(f"{name} {scores[name].text}" for name in ("sensitivity", "specificity"))
        parts.append(f"at {label} >= {threshold.value:.3f}: {rates}")
    return f"; {'; '.join(parts)}"


def survival_entries(task: Task, results: Sequence[SlideResult]) -> dict[str, object]:
    """Return Kaplan-Meier curves by tertile of the predicted risk, with the log-rank test.

    Args:
        task: the task; another than survival has no such curves.
        results: the predictions.
    """
    if not isinstance(task, Survival | Hazards):
        return {}
    known = [result for result in results if task.known(result.slide)]
    answers = [Answer(outputs=result.outputs) for result in known]
    slides = task.predictions([result.slide for result in known], answers)
    try:
        patients = slides.by_patient()
    except ValueError as error:
        return {"survival": {"groups": [], "chi2": None, "p": None, "reason": str(error)}}
    return {"survival": asdict(risk_groups(patients.risk, patients.time, patients.event))}


def froc_entries(
    labels: Sequence[str], results: Sequence[SlideResult], negative: str | None
) -> dict[str, object]:
    """Return the FROC curve of lesion detections; none where no slide has detections.

    The confidence of a detection is its score as a share of the highest on its slide, times the
    probability of the slide not being negative.

    Args:
        labels: the classes, in the model's order.
        results: the predictions.
        negative: class of the slides without lesions; None if they have no class of their own.
    """
    known = [result for result in results if result.detections is not None]
    if not known:
        return {}
    index = None if negative is None else list(labels).index(negative)
    slides = []
    for result in known:
        assert result.detections is not None
        evidence = 1.0 if index is None else 1 - result.probabilities[index]
        confidences = tuple(evidence * each for each in result.detections.confidences)
        slides.append(
            SlideDetections(result.detections.lesions, confidences, result.detections.hits)
        )
    return {"froc": asdict(froc(slides))}
