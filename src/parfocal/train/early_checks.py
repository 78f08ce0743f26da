"""Check what needs no slide before any slide is opened: targets, covariates, the teacher."""

from pathlib import Path

from parfocal.dataset.cohort import Cohort
from parfocal.dataset.split import Split
from parfocal.models.unit import Unit
from parfocal.settings import RunSettings, TrainSettings
from parfocal.tasks import Task
from parfocal.tasks.units import entries_of, fit_unit
from parfocal.train.operating_point import refuse_impossible
from parfocal.train.teacher import find_teacher, needed_magnification


def refuse_unusable_columns(
    cohort: Cohort, splits: tuple[Split, ...], settings: TrainSettings, task: Task
) -> None:
    """Refuse targets, covariates and thresholds that no model can be trained with.

    Args:
        cohort: the slides.
        splits: split of each fold.
        settings: training settings.
        task: the task, prepared for the cohort.

    Raises:
        CohortError: a training part has nothing to learn, or patients contradict each other.
        CovariateError: a column cannot be a covariate.
        RunError: there is no slide to choose a threshold on.
    """
    unit = Unit(settings.per, settings.fusion)
    for split in splits:
        task.fitted(entries_of(unit, split.train, cohort.source.name))
        fit_unit(unit, settings.covariates, split.train)
        refuse_impossible(settings, task, split.val)


def refuse_unusable_teacher(
    settings: RunSettings, task: Task, splits: tuple[Split, ...], out: Path
) -> None:
    """Refuse a teacher that is missing or does not fit, as far as that is known without features.

    Args:
        settings: settings of the run.
        task: the task, prepared for the cohort.
        splits: split of each fold.
        out: run folder, with a folder for each of several folds.

    Raises:
        CheckpointError: the teacher cannot be loaded.
        RunError: there is no teacher, or it does not fit the run.
    """
    magnification = needed_magnification(settings)
    if magnification is None:
        return
    for number, split in enumerate(splits):
        run = out if len(splits) == 1 else out / f"fold-{number}"
        find_teacher(settings, magnification, run=run, labels=task.output_names, split=split)
