"""The result of an evaluation as a line of text, as metrics.json and as predictions.csv.

docs/formats.md describes both files.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from parfocal.evaluate.budget_check import BudgetCheck
from parfocal.evaluate.clinical import (
    classification_entries,
    froc_entries,
    label_predictions,
    multilabel_entries,
    operating_text,
    survival_entries,
)
from parfocal.evaluate.folds import fold_scores
from parfocal.evaluate.result import (
    EvaluationSettings,
    Failure,
    SlideResult,
    labeled_predictions,
)
from parfocal.evaluate.step_summary import StepSummary
from parfocal.evaluate.task_scores import (
    few_patients,
    score_text,
    scores_entry,
    table_cells,
    table_header,
)
from parfocal.explain.read_metrics import METRICS_VERSION
from parfocal.metrics import (
    METRICS,
    LabeledPredictions,
    Score,
    auroc_by_stratum,
    average_by_patient,
    class_counts,
    confusion_matrix,
    small_classes,
)
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.visit import budget_text
from parfocal.printable import counted, counts_of_each
from parfocal.tasks import Task, task_of
from parfocal.tasks.multilabel import Multilabel

INTERVAL = (
    "95% over patients: exact (Clopper-Pearson) for accuracy, recall and other shares of slides, "
    "with one trial per patient; percentile bootstrap for the rest"
)
PREDICTED = "the most probable class; the first one in case of a tie"
SUMMARY_METRICS = ("auroc_macro", "accuracy", "balanced_accuracy")


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a trained model on slides of a cohort.

    Args:
        trained: the model.
        settings: how the evaluation was made.
        results: the predictions, in the order of the cohort.
        failed: slides without a prediction.
        scores: scores of the slides, by name as in `metrics.compute_scores`.
        patient_scores: scores of the patients; the reason where a patient has several labels.
    """

    trained: Checkpoint
    settings: EvaluationSettings
    results: tuple[SlideResult, ...]
    failed: tuple[Failure, ...]
    scores: dict[str, Score]
    patient_scores: dict[str, Score] | str

    @property
    def task(self) -> Task:
        """What the model predicts."""
        return task_of(self.trained)

    @property
    def predictions(self) -> LabeledPredictions:
        """Predicted probabilities and true labels of the slides, for a task with classes."""
        return labeled_predictions(self.trained.labels, self.results, self.trained.operating_point)

    @property
    def _step_summary(self) -> StepSummary:
        return StepSummary(self.trained, self.settings, self.results)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits the scores."""
        classes = self.task.classes
        few = small_classes(self.predictions) if classes else few_patients(self.task, self.results)
        return () if few is None else (few,)

    @property
    def summary(self) -> str:
        """The main results in one line."""
        patients = len({result.slide.patient_id for result in self.results})
        failed = f"; {len(self.failed)} failed" if self.failed else ""
        if not self.task.classes:
            main = score_text(self.task, self.scores)
            at = self._thresholds_text()
            return f"{self._counted(patients)}: {main}{at}{self._budget_text()}{failed}"
        names = ("quadratic_kappa",) * (self.task.name == "ordinal") + SUMMARY_METRICS
        scores = [f"{METRICS[name]} {text}" for name, text in _texts(self.scores, names)]
        classes = counts_of_each(class_counts(self.predictions))
        return (
            f"{self._counted(patients)} ({classes}): {', '.join(scores)}"
            f"{operating_text(self.predictions, self.trained.operating_point)}"
            f"{self._step_summary.probability_text()}{self._budget_text()}{failed}"
        )

    def _thresholds_text(self) -> str:
        """Return the decisions at the thresholds of several labels; empty without."""
        point = self.trained.operating_point
        if point is None or not isinstance(self.task, Multilabel):
            return ""
        return operating_text(label_predictions(self.task, self.results)[0], point)

    def _counted(self, patients: int) -> str:
        """Return how many predictions there are, and of what."""
        if self.settings.per == "patient":
            slides = sum(result.slides for result in self.results)
            return f"{counted(patients, 'patient')} with {counted(slides, 'slide')}"
        return f"{counted(len(self.results), 'slide')} of {counted(patients, 'patient')}"

    def to_dict(self) -> dict[str, object]:
        """Return the content of metrics.json."""
        trained, settings = self.trained, self.settings
        return {
            "format_version": METRICS_VERSION,
            "model": {
                "name": trained.model_name,
                "weights_sha256": trained.weights_hash,
                "encoder": trained.encoder_text,
                "magnifications": trained.magnifications,
            },
            **asdict(settings),
            "labels": trained.labels,
            **({} if trained.task is None else {"task": trained.task}),
            "predicted": self._predicted,
            "interval": INTERVAL,
            "warnings": self.warnings,
            "slides": _scores_dict(self.predictions, self.scores)
            if self.task.classes
            else scores_entry(len(self.results), self.scores),
            "strata": self._strata(),
            "patients": self._patients(),
            "probability": self._step_summary.probability(),
            "localization": self._step_summary.localization(),
            "localization_overall": self._step_summary.localization_scores(
                [result.localization for result in self.results]
            ),
            "cost": self._step_summary.cost(),
            **self._budget(),
            **self._clinical(),
            "failed": [
                {"slide_id": failure.slide.slide_id, "reason": failure.reason}
                for failure in self.failed
            ],
            **self._left_out(),
        }

    @property
    def _predicted(self) -> str:
        """How the class of a slide is decided, in words."""
        if not self.task.classes:
            return "the numbers named pred_..."
        if self.predictions.threshold is None:
            return PREDICTED
        index, value = self.predictions.threshold
        return f"{self.trained.labels[index]} if its probability is {value:.6g} or more"

    def _clinical(self) -> dict[str, object]:
        """Return the keys on calibration, decisions, survival, lesions and folds."""
        if not self.task.classes:
            point = self.trained.operating_point
            entries = survival_entries(self.task, self.results) | multilabel_entries(
                self.task, self.results, point
            )
        else:
            negatives = {r.slide.label for r in self.results if _has_no_lesion(r)}
            negative = negatives.pop() if len(negatives) == 1 else None
            entries = classification_entries(
                self.predictions, self.trained.operating_point
            ) | froc_entries(self.trained.labels, self.results, negative)
        return entries | (fold_scores(self.trained, self.results) or {})

    def to_csv(self) -> str:
        """Return the text of predictions.csv, one row per slide, or per patient.

        A patient is also the `slide_id` of its row, and `slides` is the number of its slides.
        """
        table, shares = io.StringIO(), self._step_summary.sampling_probabilities()
        writer = csv.writer(table, lineterminator="\n")
        header, rows = self._with_folds(*self._answer_columns())
        writer.writerow(
            header
            + ["patches", "share_patches", "seconds"]
            + [f"share_{self._step_summary.step_name(key)}" for key in shares]
        )
        for place, (result, cells) in enumerate(zip(self.results, rows, strict=True)):
            share = result.share_patches
            writer.writerow(
                cells
                + [result.patches, "" if share is None else f"{share:.6g}"]
                + [f"{result.cost.seconds['total']:.3f}"]
                + [f"{probabilities[place]:.6g}" for probabilities in shares.values()]
            )
        return table.getvalue()

    def _answer_columns(self) -> tuple[list[str], list[list[object]]]:
        """Return the first columns of predictions.csv: the header, and the cells of each row."""
        counts: list[list[object]] = [[] for _ in self.results]
        slides = ["slides"] * (self.settings.per == "patient")
        if slides:
            counts = [[result.slides] for result in self.results]
        ids = [[each.slide.slide_id, each.slide.patient_id] for each in self.results]
        counted = list(zip(self.results, ids, counts, strict=True))
        if not self.task.classes:
            header = ["slide_id", "patient_id", *slides, *table_header(self.task, self.results)]
            return header, [[*i, *n, *table_cells(self.task, each)] for each, i, n in counted]
        labels = self.trained.labels
        header = ["slide_id", "patient_id", "label", "predicted", *slides]
        rows: list[list[object]] = [
            [*i, each.slide.label, labels[c], *n, *(f"{p:.6g}" for p in each.probabilities)]
            for (each, i, n), c in zip(counted, self.predictions.predicted, strict=True)
        ]
        return [*header, *(f"prob_{label}" for label in labels)], rows

    def _with_folds(
        self, header: list[str], rows: list[list[object]]
    ) -> tuple[list[str], list[list[object]]]:
        """Add the folds that answered and the spread of their answers, for a run with folds."""
        if not any(result.folds for result in self.results):
            return header, rows
        names = next((tuple(r.spread) for r in self.results if r.spread), ())
        cells = [
            [" ".join(r.folds), *(f"{r.spread[n]:.6g}" if r.spread else "" for n in names)]
            for r in self.results
        ]
        joined = [[*row, *more] for row, more in zip(rows, cells, strict=True)]
        return [*header, "folds", *(f"sd_{name}" for name in names)], joined

    def _left_out(self) -> dict[str, object]:
        """Return the key `left_out` of metrics.json: slides that patients went on without."""
        left_out = {
            result.slide.patient_id: list(result.left_out)
            for result in self.results
            if result.left_out
        }
        return {"left_out": left_out} if left_out else {}

    @property
    def budget(self) -> BudgetCheck | None:
        """What the budget of the model did; None if it has none."""
        limit, point = self.trained.budget, self.trained.operating_point
        return BudgetCheck.of_results(
            None if limit is None else budget_text(limit),
            self.results,
            decision=None if point is None else point.decision(self.trained.labels),
            per=self.settings.per,
            zooms=self.trained.traits.zooms,
        )

    def _budget(self) -> dict[str, object]:
        """Return the key `budget` of metrics.json; none without a budget."""
        return {} if self.budget is None else {"budget": self.budget.to_dict()}

    def _budget_text(self) -> str:
        return "" if self.budget is None else f"; {self.budget.text}"

    def _strata(self) -> dict[str, object]:
        if not self.task.classes:
            return {}
        strata = auroc_by_stratum(
            self.predictions,
            tuple(result.slide.stratum for result in self.results),
            resamples=self.settings.resamples,
            seed=self.settings.seed,
        )
        return {name: {"n": n, "auroc": asdict(score)} for name, (n, score) in strata.items()}

    def _patients(self) -> dict[str, object]:
        if isinstance(self.patient_scores, str):
            return {"scores": None, "reason": self.patient_scores}
        if not self.task.classes:
            patients = len({result.slide.patient_id for result in self.results})
            rule = {"outputs": "the mean over the slides of a patient"}
            return rule | scores_entry(patients, self.patient_scores)
        rule = {"probabilities": "the mean over the slides of a patient"}
        return rule | _scores_dict(average_by_patient(self.predictions), self.patient_scores)


def _texts(scores: Mapping[str, Score], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each score; a reason is given once."""
    given: set[str] = set()
    for name in names:
        score = scores[name]
        yield name, score.short if score.reason in given else score.text
        given |= {score.reason} if score.reason else set()


def _has_no_lesion(result: SlideResult) -> bool:
    """Return whether a slide is of a class without lesions, in a cohort with outlines."""
    return result.detections is not None and result.slide.outlines is None


def _scores_dict(predictions: LabeledPredictions, scores: Mapping[str, Score]) -> dict[str, object]:
    """Return scores as in metrics.json, those of one class under its label."""
    classes: dict[str, dict[str, object]] = {
        label: {"n": int((predictions.truth == c).sum())}
        for c, label in enumerate(predictions.labels)
    }
    overall: dict[str, object] = {}
    for name, score in scores.items():
        metric, _, label = name.partition("/")
        (classes[label] if label else overall)[metric] = asdict(score)
    return {
        "n": len(predictions.truth),
        "scores": overall,
        "classes": classes,
        "confusion": {
            "rows": "true",
            "columns": "predicted",
            "counts": confusion_matrix(predictions).tolist(),
        },
    }
