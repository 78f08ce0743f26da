"""Check that the task of a run is complete, and that its model can be trained with it."""

from parfocal.settings.errors import SettingsError
from parfocal.settings.sections import RunSettings
from parfocal.tasks import CLASS_TASKS

CLASS_NAMES = " or ".join(CLASS_TASKS)


def check_task(settings: RunSettings) -> None:
    """Check the task, and refuse what its model or another setting needs classes for.

    Raises:
        SettingsError: settings of the task do not go together, or not with the model.
    """
    train, model = settings.train, settings.model
    try:
        task = train.build_task()
    except ValueError as error:
        raise SettingsError(f"train.{error}") from None
    has_classes = task.name in CLASS_TASKS
    if not has_classes:
        _refuse_class_settings(settings, task.name)
    if task.compares_slides:
        for name, neutral in model.traits.slide_loss_settings:
            if model.arguments.get(name, neutral) != neutral:
                raise SettingsError(
                    f"model.{name}: it needs the loss of each slide alone, and task {task.name} "
                    f"compares slides with each other; set model.{name}={_text(neutral)}, or use "
                    "task hazards."
                )


def _refuse_class_settings(settings: RunSettings, task: str) -> None:
    train, model = settings.train, settings.model
    if model.traits.needs_outlines:
        raise SettingsError(
            f"train.task: model {model.name} learns classes of patches from outlined lesions, so "
            f"its tasks are {CLASS_NAMES}, not {task}; choose another model."
        )
    if train.monitor != "loss":
        raise SettingsError(
            f"train.monitor: task {task} has no {train.monitor}; set train.monitor=loss."
        )
    if train.labels:
        raise SettingsError(f"train.labels: task {task} has no classes; remove the labels.")
    for name, neutral in model.traits.class_settings:
        if model.arguments.get(name, neutral) != neutral:
            raise SettingsError(
                f"model.{name}: it is defined for classes only (tasks {CLASS_NAMES}), and the task "
                f"is {task}; set model.{name}={_text(neutral)}."
            )


def _text(value: object) -> str:
    return "null" if value is None else str(value)
