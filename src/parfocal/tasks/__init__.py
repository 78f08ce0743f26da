"""Tasks: what is predicted of a slide, with its columns, loss, answer and metrics."""

from parfocal.tasks.classification import Classification
from parfocal.tasks.contract import LABEL, Answer, ComparesSlides, Task, mean_answer
from parfocal.tasks.registry import TASKS, build_task, parse_task, stored_task, task_of
from parfocal.tasks.task_cohort import CLASS_TASKS, prepared_task, read_task_cohort

__all__ = [
    "CLASS_TASKS",
    "LABEL",
    "TASKS",
    "Answer",
    "Classification",
    "ComparesSlides",
    "Task",
    "build_task",
    "mean_answer",
    "parse_task",
    "prepared_task",
    "read_task_cohort",
    "stored_task",
    "task_of",
]
