"""Options for what is predicted for a slide."""

import re
from typing import Annotated, Literal

import typer

from parfocal.cli.checks import checked

COLUMN_TASKS = ("classification", "ordinal", "multilabel", "regression")
TIME_TASKS = ("survival", "hazards")  # have --time and --event


def _check_target(text: str) -> None:
    for each in text.split(","):
        column, colon, task = each.strip().rpartition(":")
        if not task or (colon and not column):
            raise ValueError(f"{text!r} has a column without a name; separate names by commas.")
        if colon and task not in (*COLUMN_TASKS, *TIME_TASKS):
            raise ValueError(
                f"{each.strip()!r}: there is no task {task!r}; use {', '.join(COLUMN_TASKS)}, such "
                f"as {column}:ordinal. A column with a colon in its name needs a task."
            )


def _check_time(text: str) -> None:
    if re.fullmatch(r"(\d+-)?\d+(:\d+)+", text):
        raise ValueError(
            f"{text!r} is no column of times; the time limit of a job is --time-limit {text}."
        )


TaskName = Annotated[
    Literal["classification", "ordinal", "multilabel", "regression", "survival", "hazards"] | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="What to predict: classification, ordinal, multilabel, regression, survival (Cox) or "
        "hazards (survival in intervals of time).",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN,...",
        callback=checked(_check_target),
        help="Columns to predict instead of label; each may have its own task, such as "
        "grade:ordinal.",
    ),
]
Time = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column with the time to the event or to the end of observation.",
        callback=checked(_check_time),
    ),
]
Event = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column with 1 if the event was observed, or 0 if the time is censored.",
    ),
]


def task_flags(
    task: str | None, target: str | None, time: str | None, event: str | None
) -> dict[str, object]:
    """Return the settings that these options set; None for an option that was not given."""
    columns = None if target is None else [each.strip() for each in target.split(",")]
    if task is None and (time is not None or event is not None):
        task = "survival"
    return {"train.task": task, "train.target": columns, "train.time": time, "train.event": event}
