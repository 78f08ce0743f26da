"""The tasks by name, and how one is built from settings or read from a trained model."""

from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.models.checkpoint import Checkpoint
from parfocal.models.description import CheckpointError
from parfocal.tasks.classification import Classification
from parfocal.tasks.contract import LABEL, Task
from parfocal.validation import validate

# The one list of tasks.
TASKS: dict[str, type[Any]] = {
    "classification": Classification,
}


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


def build_task(
    name: str = "classification",
    *,
    target: Sequence[str] = (),
    labels: Sequence[str] | None = None,
) -> Task:
    """Build a task from settings, before a cohort is read.

    Args:
        name: name of the task, a key of `TASKS`.
        target: columns of the targets; empty for the usual one.
        labels: class labels in the order of the logits; None for those of the cohort.

    Raises:
        ValueError: the arguments do not fit the task.
    """
    (column,) = tuple(target) or (LABEL,)
    return Classification(tuple(labels or ()), column)


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
    if name not in TASKS:
        raise ValueError(f"task {name!r} is unknown; known: {', '.join(TASKS)}")
    task: Task = validate(TASKS[name], values)
    return task
