"""Models of a comparison that learn from another of its models (`train.teacher`)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from parfocal.compare.candidate import Candidate
from parfocal.models import MODELS
from parfocal.models.contract import UsesTeacher
from parfocal.settings import RunSettings

DEFAULT_TEACHER = "abmil"


def teachers_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the models in their order, those that may learn from another one last."""
    return sorted(candidates, key=lambda each: each.settings.model.traits.uses_teacher)


def with_teacher_run(
    settings: RunSettings, names: Sequence[str], out: Path, *, seed: int
) -> RunSettings:
    """Return the settings of one training in which the teacher is a run folder.

    Args:
        settings: settings of the run; `train.teacher` may name another model of the comparison.
        names: names of the models that are compared.
        out: folder of the comparison.
        seed: seed of the run; the teacher is the run of the same seed.
    """
    if not _needs_teacher(settings):
        return settings
    teacher = str(settings.train.teacher or DEFAULT_TEACHER)
    if teacher not in names:
        return settings
    run = out / teacher / f"seed-{seed}"
    return replace(settings, train=replace(settings.train, teacher=run))


def _needs_teacher(settings: RunSettings) -> bool:
    """Return whether a model, with its settings, is trained with a teacher."""
    if not settings.model.traits.uses_teacher:
        return False
    arguments = settings.model_arguments(in_dim=1, num_classes=2, num_slides=1)
    with torch.device("meta"):  # without memory for its weights
        model = MODELS[settings.model.name].build(**arguments)
    assert isinstance(model, UsesTeacher)
    return model.needs_teacher
