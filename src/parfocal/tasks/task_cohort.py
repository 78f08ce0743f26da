"""Read the slides of a cohort with their targets."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parfocal.dataset.cohort import Cohort, read_cohort, read_slides
from parfocal.dataset.errors import CohortError
from parfocal.slide.sources.url import RemoteAccess
from parfocal.tasks.contract import Task

logger = logging.getLogger(__name__)

CLASS_TASKS = ("classification", "ordinal")  # their target is the label of a slide


def read_task_cohort(
    path: Path,
    task: Task,
    *,
    columns: Sequence[str] = (),
    access: RemoteAccess | None = None,
) -> Cohort:
    """Read a cohort with the targets of a task, which are all checked.

    A task with classes reads them as the labels of the slides, from its column. Other tasks need
    no labels; their cells are in `CohortSlide.values`, and `CohortSlide.group` is what a split
    spreads over its parts. How many slides have each target is logged.

    Args:
        path: the table; see `read_cohort`.
        task: the task; its labels are the classes in order, if it has any.
        columns: further columns that the table must have.
        access: how remote slides are read; None for the defaults.

    Raises:
        CohortError: the table cannot be read, or a target is missing or invalid.
    """
    if task.name in CLASS_TASKS:
        (column,) = task.columns
        cohort = read_cohort(
            path,
            labels=task.classes or None,
            label_column=column,
            columns=columns,
            access=access,
        )
        prepared = prepared_task(task, cohort)
        return replace(cohort, labels=prepared.classes or cohort.labels)
    wanted = dict.fromkeys((*task.columns, *columns))
    slides = read_slides(path, columns=tuple(wanted), access=access, quiet=True)
    cohort = Cohort(path, slides, ())
    prepared = prepared_task(task, cohort)
    logger.info("%s: %s (%s)", path.name, prepared.count(slides), cohort.summary)
    grouped = tuple(replace(slide, group=prepared.group(slide)) for slide in slides)
    return Cohort(path, grouped, ())


def prepared_task(task: Task, cohort: Cohort) -> Task:
    """Return a task with what depends on the whole cohort; see `Task.prepared`.

    Raises:
        CohortError: the target of a slide is missing or invalid; the message names the table.
    """
    try:
        return task.prepared(cohort.slides)
    except CohortError as error:
        raise CohortError(f"{cohort.source.name} {error}") from None
