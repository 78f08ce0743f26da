"""Options for what is predicted for a slide."""

from typing import Annotated, Literal

import typer


def target_columns(text: str | None) -> str | None:
    """Check that every column of a list has a name.

    Raises:
        typer.BadParameter: one has none.
    """
    if text is not None and not all(each.strip() for each in text.split(",")):
        raise typer.BadParameter(f"{text!r} has a column without a name; separate names by commas")
    return text


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
        callback=target_columns,
        help="Columns to predict instead of label; each may have its own task, such as "
        "grade:ordinal.",
    ),
]
Time = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Time to the event or to the end of observation."),
]
Event = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Whether the event was observed: 1, or 0 if censored."),
]


def task_flags(
    task: str | None, target: str | None, time: str | None, event: str | None
) -> dict[str, object]:
    """Return the settings that these options set; None for an option that was not given."""
    columns = None if target is None else [each.strip() for each in target.split(",")]
    if task is None and (time is not None or event is not None):
        task = "survival"
    return {"train.task": task, "train.target": columns, "train.time": time, "train.event": event}
