"""Models of a comparison that learn from another of its models (`train.teacher`)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parfocal.compare.candidate import Candidate, ComparisonError
from parfocal.settings import RunSettings
from parfocal.train.teacher import needed_magnification

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
    if needed_magnification(settings) is None:
        return settings
    teacher = _teacher_name(settings)
    if teacher not in names:
        return settings
    run = out / teacher / f"seed-{seed}"
    return replace(settings, train=replace(settings.train, teacher=run))


def awaits_teacher(candidate: Candidate, names: Sequence[str]) -> bool:
    """Return whether the teacher of a model is another model of the comparison.

    Args:
        candidate: the model.
        names: names of the models that are compared.
    """
    return _teacher_name(candidate.settings) in names


def refuse_unfit_teachers(candidates: Sequence[Candidate]) -> None:
    """Refuse a model of the comparison as a teacher at other magnifications than that needed.

    Raises:
        ComparisonError: there is such a teacher.
    """
    by_name = {each.name: each for each in candidates}
    for each in candidates:
        needed = needed_magnification(each.settings)
        teacher = by_name.get(_teacher_name(each.settings))
        if needed is None or teacher is None:
            continue
        found = teacher.settings.slide.magnifications
        if found != (needed,):
            raise ComparisonError(
                f"{each.name}: its teacher {teacher.name} is at "
                f"{', '.join(f'{m:g}x' for m in found)}, but it needs one at {needed:g}x; add "
                f"--set {each.name}:train.teacher=RUN with a run at {needed:g}x, or another model."
            )


def _teacher_name(settings: RunSettings) -> str:
    """Return the teacher: the name of a model of the comparison, or a run folder."""
    return str(settings.train.teacher or DEFAULT_TEACHER)
