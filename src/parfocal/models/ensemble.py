"""The models of all folds of a run as one: its answer is the mean of theirs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

from parfocal.models.checkpoint import Checkpoint, SettingValue
from parfocal.models.description import CheckpointError, description_path
from parfocal.models.provenance import TrainingProvenance
from parfocal.operating_point import OperatingPoint, Threshold

FOLD = re.compile(r"fold-(\d+)")  # name of the folder of a fold
MEAN_NOTE = "mean of the thresholds of the folds"


def load_trained(
    run: Path,
    *,
    overrides: Mapping[str, SettingValue] | None = None,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load a trained model, or the models of all folds of a run with folds.

    Args:
        run: folder of a finished run, with or without folds.
        overrides: settings of the model to change; see `Checkpoint.load`.
        trust_remote_code: whether to run code from the repository of an encoder.

    Returns:
        The model; for a run with folds, one whose `members` are those of the folds.

    Raises:
        CheckpointError: a model cannot be loaded, or the folds cannot answer together.
    """

    def load(folder: Path) -> Checkpoint:
        return Checkpoint.load(folder, overrides=overrides, trust_remote_code=trust_remote_code)

    folds = fold_folders(run)
    if not folds:
        return load(run)
    return as_ensemble(run, {folder.name: load(folder) for folder in folds})


def is_fold(run: Path) -> bool:
    """Return whether a run folder is that of a fold, by its name."""
    return FOLD.fullmatch(run.resolve().name) is not None


def fold_folders(run: Path) -> tuple[Path, ...]:
    """Return the folders of the folds of a run in order; empty for a run without folds.

    Raises:
        CheckpointError: a fold is not finished.
    """
    if description_path(run).exists():
        return ()
    numbered = {
        int(match[1]): folder
        for folder in run.glob("fold-*")
        if folder.is_dir() and (match := FOLD.fullmatch(folder.name))
    }
    folds = tuple(numbered[number] for number in sorted(numbered))
    finished = [folder for folder in folds if description_path(folder).exists()]
    if not finished:
        return ()
    for folder in folds:
        if folder not in finished:
            raise CheckpointError(
                f"{run}: {folder.name} is not finished, and the folds answer together; finish the "
                f"run with --resume, or give one fold, for example {finished[0]}."
            )
    return folds


def as_ensemble(run: Path, members: Mapping[str, Checkpoint]) -> Checkpoint:
    """Return a checkpoint that stands for several models.

    Args:
        run: folder of the run, for messages.
        members: models by name; at least one.

    Raises:
        CheckpointError: the models do not read a slide alike, or answer different questions.
    """
    (first_name, first), *others = members.items()
    for name, other in others:
        difference = _difference(first, other)
        if difference is not None:
            raise CheckpointError(
                f"{run}: {name} has {difference} than {first_name}, so the folds cannot answer "
                f"together; give one of them, for example {run / first_name}."
            )
    hashes = ",".join(each.weights_hash for each in members.values())
    return replace(
        first,
        members=dict(members),
        task=_without_baseline(first.task),
        stored_hash=sha256(hashes.encode()).hexdigest(),
        training=_joined_provenance([each.training for each in members.values()]),
        operating_point=_mean_point([each.operating_point for each in members.values()]),
        stopping=None,
    )


def each_member(trained: Checkpoint, change: Callable[[Checkpoint], Checkpoint]) -> Checkpoint:
    """Return an ensemble with each member changed, such as by a budget.

    Args:
        trained: a model with members.
        change: returns the changed member.
    """
    members = {name: change(member) for name, member in trained.members.items()}
    first = next(iter(members.values()))
    kept = ("members", "stored_hash", "training", "operating_point", "stopping", "encoders", "task")
    values: dict[str, Any] = {name: getattr(trained, name) for name in kept}
    return replace(first, **{**values, "members": members})


def _difference(one: Checkpoint, other: Checkpoint) -> str | None:
    """Return in what two models differ that has to be equal; None if in nothing."""
    encoders = [
        [replace(encoder, address="") for encoder in trained.encoders] for trained in (one, other)
    ]
    tasks = [(trained.task or {}).get("name", "classification") for trained in (one, other)]
    checks = {
        f"another model ({other.model_name})": one.model_name != other.model_name,
        f"another task ({tasks[1]})": tasks[0] != tasks[1],
        "other intervals of time": _edges(one.task) != _edges(other.task),
        f"other outputs ({', '.join(other.labels)})": one.labels != other.labels,
        f"other magnifications ({', '.join(f'{m:g}' for m in other.magnifications)})": (
            one.magnifications != other.magnifications
        ),
        f"another encoder ({other.encoder_text})": encoders[0] != encoders[1],
        "other settings of slides": one.slide != other.slide,
        f"another unit ({other.unit.per})": one.unit.per != other.unit.per,
        f"another fusion ({other.unit.fusion})": one.unit.fusion != other.unit.fusion,
        f"other covariates ({', '.join(other.unit.columns)})": (
            one.unit.columns != other.unit.columns
        ),
    }
    return next((text for text, differs in checks.items() if differs), None)


def _edges(task: object) -> list[object]:
    """Return the ends of intervals of time anywhere in a task, which name its outputs."""
    if isinstance(task, Mapping):
        own = [task["edges"]] if "edges" in task else []
        return own + [each for value in task.values() for each in _edges(value)]
    if isinstance(task, list | tuple):
        return [each for value in task for each in _edges(value)]
    return []


def _without_baseline(task: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a task without the baseline hazard, which belongs to the risks of one fold."""
    if task is None or "hazard" not in task:
        return task
    return {**task, "times": (), "hazard": ()}


def _joined_provenance(trainings: list[TrainingProvenance]) -> TrainingProvenance:
    """Return which slides any of the models was trained on."""

    def union(name: str) -> dict[str, list[str]]:
        parts = sorted({part for training in trainings for part in getattr(training, name)})
        return {
            part: sorted({each for t in trainings for each in getattr(t, name).get(part, ())})
            for part in parts
        }

    return replace(
        trainings[0],
        slides=union("slides"),
        patients=union("patients"),
        fingerprints={key: each for t in trainings for key, each in t.fingerprints.items()},
    )


def _mean_point(points: list[OperatingPoint | None]) -> OperatingPoint | None:
    """Return the mean of the thresholds of the folds; None if a fold has none.

    Temperatures belong to the folds: each divides its own logits.
    """
    known = [point for point in points if point is not None and point.thresholds]
    if not known or len(known) != len(points):
        return None
    values = {
        label: fmean(point.thresholds[label].value for point in known)
        for label in known[0].thresholds
    }
    return OperatingPoint(
        known[0].rule, {label: Threshold(value) for label, value in values.items()}, note=MEAN_NOTE
    )
