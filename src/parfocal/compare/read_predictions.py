"""Read the predictions of evaluations, of any task."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.dataset.cohort import CohortSlide
from parfocal.metrics import LabeledPredictions, Resamplable
from parfocal.tasks import Answer, Task, parse_task

PREDICTED = "pred_"  # begins the columns of predicted numbers
EVENTS = "events"
SLIDES = "slides"  # the one group of a task without classes and events


def read_all_predictions(
    evaluations: Sequence[Path], metrics: Sequence[Mapping[str, Any]]
) -> tuple[Resamplable, ...]:
    """Return the predictions of evaluations, given their folders and metrics.json."""
    return tuple(
        _read_predictions(folder, each) for folder, each in zip(evaluations, metrics, strict=True)
    )


def count_slides(
    evaluations: Sequence[Path], metrics: Sequence[Mapping[str, Any]]
) -> dict[str, int]:
    """Count the test slides of each class; a slide that several runs test counts once.

    With survival, those with and without the event are counted, and with other tasks without
    classes all slides together.

    Args:
        evaluations: folders of evaluations.
        metrics: their metrics.json.
    """
    rows: dict[str, dict[str, str]] = {}
    for folder in evaluations:
        rows |= {row["slide_id"]: row for row in _read_rows(folder)}
    task = _task_without_classes(metrics[0])
    if task is None:
        labels = [row["label"] for row in rows.values()]
        return {label: labels.count(label) for label in metrics[0]["labels"]}
    groups = [task.group(slide) for slide in _slides(list(rows.values()), task)]
    if set(groups) <= {"event", "censored"}:
        return {EVENTS: groups.count("event"), "censored": groups.count("censored")}
    return {SLIDES: len(rows)}


def _read_predictions(folder: Path, metrics: Mapping[str, Any]) -> Resamplable:
    rows, task = _read_rows(folder), _task_without_classes(metrics)
    if task is not None:
        return _numbers(rows, task)
    labels = tuple(metrics["labels"])
    return LabeledPredictions(
        labels,
        np.array([labels.index(row["label"]) for row in rows]),
        np.array([[float(row[f"prob_{label}"]) for label in labels] for row in rows]),
        tuple(row["patient_id"] for row in rows),
    )


def _numbers(rows: Sequence[Mapping[str, str]], task: Task) -> Resamplable:
    """Return the predictions of a task without classes, where a target is known."""
    answers = [
        Answer(
            outputs={
                name.removeprefix(PREDICTED): float(value)
                for name, value in row.items()
                if name.startswith(PREDICTED) and name not in task.columns
            }
        )
        for row in rows
    ]
    pairs = zip(_slides(rows, task), answers, strict=True)
    known = [(slide, answer) for slide, answer in pairs if task.known(slide)]
    return task.resamplable([slide for slide, _ in known], [answer for _, answer in known])


def _slides(rows: Sequence[Mapping[str, str]], task: Task) -> list[CohortSlide]:
    """Return the slides of predictions.csv with their targets."""
    return [
        CohortSlide(
            slide_id=row["slide_id"],
            path=Path(row["slide_id"]),
            label="",
            patient_id=row["patient_id"],
            row=number,
            values={column: row[column] for column in task.columns},
        )
        for number, row in enumerate(rows, start=2)
    ]


def _task_without_classes(metrics: Mapping[str, Any]) -> Task | None:
    """Return the task of an evaluation; None if it has classes."""
    task = parse_task(metrics["task"]) if metrics.get("task") else None
    return None if task is None or task.classes else task


def _read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
