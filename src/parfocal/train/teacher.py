"""The trained model that another one learns from (`train.teacher`)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from parfocal.dataset.split import Split
from parfocal.encoders.per_magnification import encoder_text
from parfocal.encoders.spec import EncoderSpec
from parfocal.models import MODELS
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.contract import UsesTeacher
from parfocal.models.description import DESCRIPTION_FILE
from parfocal.models.ensemble import is_fold
from parfocal.settings import RunSettings
from parfocal.tasks import Task, task_of
from parfocal.train.folder import RunError


def load_teacher(
    settings: RunSettings,
    model: nn.Module,
    *,
    run: Path,
    labels: Sequence[str],
    encoders: Sequence[EncoderSpec],
    split: Split,
) -> Checkpoint | None:
    """Load the trained model that a model learns from; None if it learns without one.

    Args:
        settings: settings of the run.
        model: model to train.
        run: run folder; if the teacher has a fold of this name, that fold is the teacher.
        labels: class labels of the run.
        encoders: encoder of each magnification of the run.
        split: slides of the run.

    Raises:
        CheckpointError: the teacher cannot be loaded.
        RunError: there is no teacher, or it does not fit the run.
    """
    if not settings.model.traits.uses_teacher:
        return None
    assert isinstance(model, UsesTeacher)
    if not model.needs_teacher:
        return None
    position = model.teacher_magnification
    magnification = settings.slide.magnifications[position]
    folder, teacher = find_teacher(settings, magnification, run=run, labels=labels, split=split)
    own = encoder_text([encoders[position].name], [magnification])
    if teacher.encoder_text != own:
        raise _other_setting(folder, "encoder", teacher.encoder_text, own)
    if teacher.encoders[0] != encoders[position]:
        raise _unfit(
            folder,
            f"its encoder {teacher.encoder_text} has other weights or another output",
            "train a teacher with the encoder of this run",
        )
    try:
        model.set_teacher(teacher.model)
    except ValueError as error:
        raise RunError(f"train.teacher: {folder}: {error}") from None
    return teacher


def needed_magnification(settings: RunSettings) -> float | None:
    """Return the magnification of the teacher that a model needs; None if it needs none.

    Args:
        settings: settings of the run.
    """
    if not settings.model.traits.uses_teacher:
        return None
    arguments = settings.model_arguments(in_dim=1, num_classes=2, num_slides=1)
    with torch.device("meta"):  # without memory for its weights
        model = MODELS[settings.model.name].build(**arguments)
    assert isinstance(model, UsesTeacher)
    if not model.needs_teacher:
        return None
    return settings.slide.magnifications[model.teacher_magnification]


def find_teacher(
    settings: RunSettings, magnification: float, *, run: Path, labels: Sequence[str], split: Split
) -> tuple[Path, Checkpoint]:
    """Load the teacher of a run, and check all of it but its encoder; return its folder, too.

    Args:
        settings: settings of the run.
        magnification: magnification of the teacher.
        run: run folder; if the teacher has a fold of this name, that fold is the teacher.
        labels: names of the outputs of the run.
        split: slides of the run.

    Raises:
        CheckpointError: the teacher cannot be loaded.
        RunError: there is no teacher, or it does not fit the run.
    """
    folder = _folder(settings, run, magnification)
    teacher = Checkpoint.load(folder)
    if teacher.traits.takes_pixels or teacher.traits.zooms or len(teacher.magnifications) != 1:
        raise _unfit(
            folder,
            f"model {teacher.model_name} does not use features of one magnification",
            f"train one, such as abmil at {magnification:g}x",
        )
    if teacher.unit.covariates is not None:
        raise _unfit(
            folder,
            f"it also needs {', '.join(teacher.unit.columns)}, which this run does not provide",
            "train a teacher without covariates",
        )
    own = {
        "task": _task_text(settings.train.build_task()),
        "classes": list(labels),
        "magnification": f"{magnification:g}x",
        "patch size": settings.slide.patch_size,
    }
    found = {
        "task": _task_text(task_of(teacher)),
        "classes": list(teacher.labels),
        "magnification": f"{teacher.magnifications[0]:g}x",
        "patch size": teacher.patch_size,
    }
    for name, expected in own.items():
        if found[name] != expected:
            raise _other_setting(folder, name, found[name], expected)
    _refuse_test_slides(folder, teacher, split)
    return folder, teacher


def _task_text(task: Task) -> str:
    return f"{task.name} of {', '.join(task.columns)}"


def _folder(settings: RunSettings, run: Path, magnification: float) -> Path:
    """Return the run folder of the teacher."""
    folder, name = settings.train.teacher, settings.model.name
    how = (
        f"train one at {magnification:g}x (parfocal train COHORT --model abmil "
        f"--magnifications {magnification:g} --out RUN), then --set train.teacher=RUN; in a "
        "comparison, list abmil, too"
    )
    if folder is None:
        raise RunError(
            f"train.teacher is missing, but model {name} needs a trained teacher; {how}."
        )
    folds = [folder / run.name] if is_fold(run) else []
    for each in (*folds, folder):
        if (each / DESCRIPTION_FILE).exists():
            return each
    parts = sorted(path.parent for path in folder.glob(f"fold-*/{DESCRIPTION_FILE}"))
    if parts:
        raise RunError(
            f"train.teacher: {folder} is a run with folds; give one of them, such as {parts[0]}, "
            "or train with the same --folds."
        )
    raise RunError(f"train.teacher: {folder} is not the folder of a finished run; {how}.")


def _refuse_test_slides(folder: Path, teacher: Checkpoint, split: Split) -> None:
    """Refuse a teacher that was trained on test slides of the run."""
    trained_on = {slide_id for part in teacher.training.slides.values() for slide_id in part}
    common = [slide.slide_id for slide in split.test if slide.slide_id in trained_on]
    if common:
        raise _unfit(
            folder,
            f"it was trained on {len(common)} of the {len(split.test)} test slides of this run, "
            f"such as {common[0]}",
            "train both on the same split, with the same train.seed or a column split",
        )


def _other_setting(folder: Path, name: str, found: object, expected: object) -> RunError:
    return _unfit(
        folder,
        f"its {name} is {found}, but {expected} in this run",
        "train a teacher with the settings of this run",
    )


def _unfit(folder: Path, found: str, remedy: str) -> RunError:
    return RunError(f"train.teacher: {folder}: {found}; {remedy}.")
