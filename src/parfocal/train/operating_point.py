"""Choose the temperature and the thresholds of a model on its validation slides.

The outputs of the best epoch for the validation slides are kept in validation.csv of the run
folder. These slides also chose the epoch, so a threshold chosen on them is optimistic. With folds,
each fold therefore gets the threshold of the other folds: that of their validation slides, without
patients whose slides the fold tests or has validated itself.
"""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.special import expit, softmax

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.split import SPLIT_FILE, read_split
from parfocal.metrics import choose_threshold, fit_temperature, threshold_scores
from parfocal.models.checkpoint import Checkpoint
from parfocal.operating_point import OperatingPoint, Threshold, ThresholdRule
from parfocal.settings import TrainSettings
from parfocal.tasks import Task
from parfocal.tasks.joint import Joint
from parfocal.train.folder import RunError, write_summary
from parfocal.train.summary import RunSummary
from parfocal.train.validation import ValidationOutput

VALIDATION_FILE = "validation.csv"
SHARED_NOTE = "the same slides chose the epoch, so the rates on them are optimistic"
OTHER_FOLDS = " of other folds"
CROSS_NOTE = "cross-fitted: this fold neither tests nor validates these slides"
REFIT_NOTE = "chosen with the model before the refit, which has no validation slides"

TRUE, LOGIT = "true_", "logit_"  # begin the columns of validation.csv

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationTable:
    """The outputs of a model for its validation slides.

    Args:
        labels: class labels in the order of the logits.
        slide_ids: id of each slide.
        patients: patient id of each slide.
        truth: index of the true class; for a task with several labels at once, whether each of them
            is true, 1 or 0, and NaN where unknown.
        logits: logits of each slide.
    """

    labels: tuple[str, ...]
    slide_ids: tuple[str, ...]
    patients: tuple[str, ...]
    truth: Int64[np.ndarray, " n"] | Float[np.ndarray, "n c"]
    logits: Float[np.ndarray, "n c"]

    @property
    def is_multilabel(self) -> bool:
        """Whether several labels of a slide may be true."""
        return self.truth.ndim > 1

    @classmethod
    def of_outputs(
        cls, outputs: Sequence[ValidationOutput], labels: tuple[str, ...]
    ) -> "ValidationTable":
        """Return the table of the outputs of an epoch."""
        truth = np.array([output.target.tolist() for output in outputs])
        return cls(
            labels,
            tuple(output.slide.slide_id for output in outputs),
            tuple(output.slide.patient_id for output in outputs),
            truth if truth.ndim > 1 else truth.astype(np.int64),
            np.array([output.logits.tolist() for output in outputs]).reshape(-1, len(labels)),
        )

    def to_bytes(self) -> bytes:
        """Return the content of validation.csv, one row per slide."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = [f"{TRUE}{each}" for each in self.labels] if self.is_multilabel else ["label"]
        writer.writerow(
            ["slide_id", "patient_id", *columns, *(f"{LOGIT}{each}" for each in self.labels)]
        )
        rows = zip(self.slide_ids, self.patients, self.truth, self.logits.tolist(), strict=True)
        for slide_id, patient, truth, logits in rows:
            cells = list(map(repr, truth.tolist())) if truth.ndim else [self.labels[truth]]
            writer.writerow([slide_id, patient, *cells, *map(repr, logits)])
        return text.getvalue().encode()

    @classmethod
    def read(cls, path: Path) -> "ValidationTable":
        """Read validation.csv of a run.

        Raises:
            RunError: the file is missing or damaged.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            start = next(n for n, name in enumerate(header) if name.startswith(LOGIT))
            labels = tuple(name.removeprefix(LOGIT) for name in header[start:])
            truth: Int64[np.ndarray, " n"] | Float[np.ndarray, "n c"]
            if header[2] == "label":
                truth = np.array([labels.index(row[2]) for row in rows], dtype=np.int64)
            else:
                truth = _numbers([row[2:start] for row in rows], len(labels))
            return cls(
                labels,
                tuple(row[0] for row in rows),
                tuple(row[1] for row in rows),
                truth,
                _numbers([row[start:] for row in rows], len(labels)),
            )
        except (OSError, ValueError, IndexError, StopIteration) as error:
            raise RunError(
                f"{path}: the outputs for the validation slides cannot be read ({error}); train "
                "again."
            ) from None

    def without(self, patients: set[str]) -> "ValidationTable":
        """Return the rows of other patients."""
        keep = np.array([each not in patients for each in self.patients], dtype=bool)
        return self._rows(keep)

    def joined(self, others: Sequence["ValidationTable"]) -> "ValidationTable":
        """Return the rows of several tables of the same labels."""
        tables = (self, *others)
        return ValidationTable(
            self.labels,
            tuple(each for table in tables for each in table.slide_ids),
            tuple(each for table in tables for each in table.patients),
            np.concatenate([table.truth for table in tables]),
            np.concatenate([table.logits for table in tables]),
        )

    def _rows(self, keep: Bool[np.ndarray, " n"]) -> "ValidationTable":
        ids, patients = (
            tuple(each for each, kept in zip(values, keep, strict=True) if kept)
            for values in (self.slide_ids, self.patients)
        )
        return ValidationTable(self.labels, ids, patients, self.truth[keep], self.logits[keep])


def _numbers(rows: Sequence[Sequence[str]], columns: int) -> Float[np.ndarray, "n c"]:
    return np.array([[float(cell) for cell in row] for row in rows]).reshape(-1, columns)


def is_requested(settings: TrainSettings) -> bool:
    """Return whether a run is to choose a threshold or a temperature."""
    return settings.threshold is not None or settings.temperature


def refuse_impossible(settings: TrainSettings, task: Task, val: Sequence[CohortSlide]) -> None:
    """Refuse a threshold or a temperature that cannot be chosen, before the first epoch.

    Args:
        settings: training settings.
        task: the task.
        val: validation slides.

    Raises:
        RunError: the task has no probabilities, or a class has no validation slide.
    """
    if not is_requested(settings):
        return
    name = "threshold" if settings.threshold is not None else "temperature"
    if task.name == Joint.name:
        raise RunError(
            f"train.{name}: a model with several targets cannot have one; remove it, or train a "
            "model for each target."
        )
    if not task.thresholds:
        raise RunError(
            f"train.{name}: task {task.name} has no classes to choose it for; remove it, or "
            "train a task with classes."
        )
    if settings.temperature and not task.classes:
        raise RunError(
            f"train.temperature: it divides the logits of classes of which one is true, and task "
            f"{task.name} has several; remove it."
        )
    rule = None if settings.threshold is None else ThresholdRule.parse(str(settings.threshold))
    if not task.classes:
        _require_both(task, val, rule)
        return
    if not val or (rule is not None and rule.kind != "value"):
        present = {int(task.encode(slide)) for slide in val}
        missing = [label for c, label in enumerate(task.classes) if c not in present]
        if missing:
            given = "" if rule is None else ", or give a number, such as --threshold 0.5"
            raise RunError(
                f"train.{name}: there is no validation slide of class {', '.join(missing)} to "
                f"choose it on; raise train.val_fraction, or add slides to split val{given}."
            )


def _require_both(task: Task, val: Sequence[CohortSlide], rule: ThresholdRule | None) -> None:
    """Refuse a threshold of a label that is the same on all validation slides."""
    if rule is None or rule.kind == "value":
        return
    encoded = [task.encode(slide).tolist() for slide in val]
    for c, label in enumerate(task.output_names):
        found = {row[c] for row in encoded}
        for value, word in ((1.0, "with"), (0.0, "without")):
            if value not in found:
                raise RunError(
                    f"train.threshold: there is no validation slide {word} {label} to choose its "
                    "threshold on; raise train.val_fraction, add slides to split val, or give a "
                    "number, such as --threshold 0.5."
                )


def choose_operating_point(
    table: ValidationTable, settings: TrainSettings, *, source: str = "", note: str = SHARED_NOTE
) -> OperatingPoint:
    """Choose the temperature and the thresholds on a table of outputs.

    Args:
        table: outputs for validation slides.
        settings: training settings, with what to choose.
        source: where the slides come from, in words.
        note: what to keep in mind about the choice.

    Raises:
        ValueError: a class has no slide.
    """
    temperature = fit_temperature(table.logits, table.truth) if settings.temperature else None
    if table.is_multilabel:
        probabilities = expit(table.logits)
    else:
        probabilities = softmax(table.logits / (temperature or 1.0), axis=1)
    rule = None if settings.threshold is None else ThresholdRule.parse(str(settings.threshold))
    thresholds: dict[str, Threshold] = {}
    if rule is not None:
        # Of two classes, the threshold of the second one decides.
        first = 1 if len(table.labels) == 2 and not table.is_multilabel else 0
        for c, label in enumerate(table.labels[first:], start=first):
            thresholds[label] = _choose(table, probabilities[:, c], c, rule)
    used = settings.temperature or (rule is not None and rule.kind != "value")
    return OperatingPoint(
        None if rule is None else str(rule),
        thresholds,
        temperature,
        len(table.slide_ids) if used else 0,
        len(set(table.patients)) if used else 0,
        source if used else "",
        note if used else "",
    )


def _choose(
    table: ValidationTable, score: Float[np.ndarray, " n"], c: int, rule: ThresholdRule
) -> Threshold:
    """Choose the threshold of one class against the others, or of one of several labels."""
    known = ~np.isnan(table.truth[:, c]) if table.is_multilabel else np.isfinite(score)
    truth = (table.truth[:, c] == 1)[known] if table.is_multilabel else table.truth == c
    score, patients = score[known], tuple(np.array(table.patients, dtype=object)[known].tolist())
    value = choose_threshold(truth, score, rule)
    if rule.kind == "value":
        return Threshold(value)
    rates = threshold_scores(truth, score, value, patients)
    return Threshold(
        value,
        rates["sensitivity"].value,
        rates["specificity"].value,
        int(truth.sum()),
        int((~truth).sum()),
    )


def cross_fit(runs: Sequence[RunSummary], settings: TrainSettings) -> list[RunSummary]:
    """Give each fold the temperature and the thresholds of the other folds.

    A fold keeps its own where the other folds have no slide of a class left.

    Args:
        runs: summaries of the finished folds; their files are written again.
        settings: training settings.

    Returns:
        The summaries with the new thresholds.
    """
    tables = [ValidationTable.read(run.out / VALIDATION_FILE) for run in runs]
    fitted = []
    for number, run in enumerate(runs):
        others = [table for n, table in enumerate(tables) if n != number]
        point = _of_other_folds(run.out, others, settings)
        if point is not None:
            replace(Checkpoint.load(run.out), operating_point=point).save(run.out)
            logger.debug("%s: %s", run.out.name, point.summary)  # the command prints it
            run = replace(run, operating_point=point.summary)  # noqa: PLW2901
            write_summary(run)
        fitted.append(run)
    return fitted


def _of_other_folds(
    fold: Path, others: Sequence[ValidationTable], settings: TrainSettings
) -> OperatingPoint | None:
    """Choose on the validation slides of other folds; None if that is impossible."""
    rows = read_split(fold / SPLIT_FILE)
    own = {row.patient_id for row in rows if row.split in ("test", "val")}
    left = [table.without(own) for table in others]
    try:
        table = left[0].joined(left[1:])
        return choose_operating_point(table, settings, source=OTHER_FOLDS, note=CROSS_NOTE)
    except ValueError as error:
        logger.warning(
            "%s: %s among the validation slides of the other folds whose patients it neither tests "
            "nor validates, so the fold keeps the threshold of its own validation slides, on which "
            "the epoch was chosen as well",
            *(fold, error),
        )
        return None
