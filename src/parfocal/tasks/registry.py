"""The tasks by name, and how one is built from settings or read from a trained model."""

from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.columns import is_administrative
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.description import CheckpointError
from parfocal.tasks.classification import Classification
from parfocal.tasks.contract import LABEL, Task
from parfocal.tasks.hazards import Hazards
from parfocal.tasks.joint import Joint
from parfocal.tasks.multilabel import Multilabel
from parfocal.tasks.ordinal import Ordinal
from parfocal.tasks.regression import Regression
from parfocal.tasks.survival import Survival
from parfocal.validation import validate

# The one list of tasks that have settings of their own; several of them make a `Joint`.
TASKS: dict[str, type[Any]] = {
    "classification": Classification,
    "ordinal": Ordinal,
    "multilabel": Multilabel,
    "regression": Regression,
    "survival": Survival,
    "hazards": Hazards,
}
OF_TIME = ("survival", "hazards")


def build_task(
    name: str = "classification",
    *,
    target: Sequence[str] = (),
    time: str | None = None,
    event: str | None = None,
    time_bins: int = 4,
    labels: Sequence[str] | None = None,
) -> Task:
    """Build a task from settings, before a cohort is read.

    Args:
        name: name of the task, a key of `TASKS`.
        target: columns of the targets; empty for the usual one. A column may be followed by a task
            of its own, as in "grade:ordinal".
        time: column of the time, for survival.
        event: column of the event, for survival.
        time_bins: number of intervals of the task hazards.
        labels: class labels in the order of the logits; None for those of the cohort.

    Raises:
        ValueError: the arguments do not fit the task; the message begins with a setting.
    """
    columns: dict[str, list[str]] = {}  # by task
    for text in target:
        column, kind = _own_task(text, name)
        columns.setdefault(kind, []).append(column)
    _refuse_columns([column for listed in columns.values() for column in listed], (time, event))
    parts: list[Task] = []
    if name in OF_TIME or time or event:
        parts.append(_time_task(name, time, event, time_bins))
    for kind, listed in columns.items():
        parts += _tasks_of(kind, listed)
    if not parts:
        parts = _tasks_of(name, [])
    if len(parts) > 1:
        if labels:
            raise ValueError(
                "labels: with several targets, the classes are taken from the columns; remove it."
            )
        return Joint(tuple(parts))
    (task,) = parts
    if labels and isinstance(task, Classification | Ordinal):
        return type(task)(tuple(labels), task.target)
    return task


def _own_task(text: str, default: str) -> tuple[str, str]:
    """Return a column and its task, from a text such as "grade:ordinal"."""
    column, colon, kind = text.rpartition(":")
    if colon and kind in OF_TIME:
        raise ValueError(f"target: {text!r}: give the columns of survival with --time and --event.")
    if colon and kind in TASKS:
        return column, kind
    if default in OF_TIME:
        raise ValueError(
            f"target: with {default}, {text!r} needs its own task, such as {text}:regression; give "
            "the columns of the time and the event with --time and --event."
        )
    return text, default


def _refuse_columns(columns: Sequence[str], of_time: Sequence[str | None]) -> None:
    """Refuse a target that is given twice, or that is not a property of a slide."""
    for column in columns:
        if columns.count(column) > 1:
            raise ValueError(f"target: column {column!r} is there twice; remove one.")
        if column in of_time:
            raise ValueError(
                f"target: {column!r} is also the column of the time or the event; remove it from "
                "the targets."
            )
    for column in filter(None, (*columns, *of_time)):
        if is_administrative(column):
            key = "target" if column in columns else "time, event"
            raise ValueError(
                f"{key}: column {column!r} identifies a slide or its part of the split, so it "
                "cannot be predicted; give a column of targets."
            )


def _time_task(name: str, time: str | None, event: str | None, bins: int) -> Task:
    if name not in OF_TIME:
        raise ValueError(
            f"time, event: task {name} does not use them; use task survival, or remove them."
        )
    if not time or not event:
        missing = "time" if not time else "event"
        raise ValueError(
            f"{missing}: task {name} needs the column of the time and that of the event: --time "
            "COLUMN --event COLUMN."
        )
    if time == event:
        raise ValueError(f"event: {event!r} is also the column of the time; give another column.")
    return Survival(time, event) if name == "survival" else Hazards(time, event, bins)


def _tasks_of(kind: str, columns: Sequence[str]) -> list[Task]:
    """Return the tasks of one kind: one for all columns, or one for each if it has classes."""
    if kind in ("classification", "ordinal"):
        return [TASKS[kind](target=column) for column in columns or (LABEL,)]
    if not columns:
        raise ValueError(f"target: task {kind} needs the columns of its targets: --target COLUMN.")
    task: Task = TASKS[kind](tuple(columns))
    return [task]


def refuse_fusion(fusion: str | None, task: Task) -> None:
    """Refuse fusion by the highest value of each output if an output belongs to a class.

    Args:
        fusion: how the predictions for the slides of a patient are joined; None for one bag.
        task: the task.

    Raises:
        ValueError: the task has several targets, of which one has classes.
    """
    parts = task.parts if isinstance(task, Joint) else ()
    named = [part.columns[0] for part in parts if isinstance(part, Classification | Ordinal)]
    if fusion == "max" and named:
        raise ValueError(
            f"fusion max with several targets takes the highest value of each output, which is not "
            f"defined for the classes of {named[0]}; use fusion mean, or one bag per patient."
        )


def shared_by_folds(task: Task, slides: Sequence[CohortSlide]) -> Task:
    """Return a task with what all folds share, so that their predictions can be combined.

    Args:
        task: the task, prepared for the cohort.
        slides: slides or patients of all folds.

    Raises:
        CohortError: there are fewer events at different times than intervals.
    """
    if isinstance(task, Joint):
        known = [[each for each in slides if part.known(each)] for part in task.parts]
        parts = zip(task.parts, known, strict=True)
        return Joint(tuple(shared_by_folds(part, own) for part, own in parts))
    return task.fitted(slides) if isinstance(task, Hazards) else task


def task_of(trained: Checkpoint) -> Task:
    """Return the task of a trained model.

    Raises:
        CheckpointError: the description of the task is damaged.
    """
    if trained.task is None:
        return Classification(trained.labels)
    try:
        return parse_task(trained.task)
    except ValueError as error:
        raise CheckpointError(
            f"the task in the checkpoint of model {trained.model_name} is damaged ({error}); "
            "restore checkpoint.json or train again."
        ) from None


def stored_task(task: Task) -> dict[str, Any] | None:
    """Return what a checkpoint stores of a task; None for one class per slide, the label."""
    if isinstance(task, Classification) and task.target == LABEL:
        return None
    return task.to_dict()


def parse_task(description: Mapping[str, Any]) -> Task:
    """Return the task that `Task.to_dict` described.

    Raises:
        ValueError: the task or one of its values is unknown or invalid.
    """
    values = dict(description)
    name = values.pop("name", None)
    if name == Joint.name and isinstance(values.get("parts"), list):
        return Joint(tuple(parse_task(part) for part in values["parts"]))
    if name not in TASKS:
        raise ValueError(f"task {name!r} is unknown; known: {', '.join(TASKS)}")
    task: Task = validate(TASKS[name], values)
    return task
