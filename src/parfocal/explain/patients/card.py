"""The model card on a page: what a model was trained on, its encoder, and how well it did."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from parfocal.dataset.cohort_slide import PARTS
from parfocal.dataset.split import read_split
from parfocal.explain.library import list_problem
from parfocal.explain.read_metrics import read_metrics
from parfocal.explain.record import PredictionRecord
from parfocal.explain.report.template import score_text
from parfocal.explain.truths import files_in
from parfocal.files import is_folder
from parfocal.metrics import score_label
from parfocal.models.description import (
    DESCRIPTION_FILE,
    HUB_DESCRIPTION_FILE,
    is_description,
    read_description,
)
from parfocal.operating_point import OperatingPoint
from parfocal.printable import counted, counts_of_each, printable
from parfocal.tasks import Task, parse_task

MAIN_SCORES = ("auroc_macro", "accuracy", "balanced_accuracy", "quadratic_kappa")


@dataclass(frozen=True)
class EvaluationFacts:
    """An evaluation of a model.

    Args:
        name: folder of the evaluation.
        slides: number of slides, and the evaluated part.
        scores: scores with their intervals as text, by the name of the metric.
        warnings: what limits the scores.
    """

    name: str
    slides: str
    scores: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ModelCard:
    """What is known about a model.

    Args:
        run: folder of the run.
        trained_on: numbers of slides and patients of each part, as text.
        encoders: encoders with their licenses, as text.
        seed: seed of the training.
        version: version of parfocal that trained it.
        operating_point: its thresholds; None if none were chosen.
        task: what it predicts; None for one class per slide.
    """

    run: str
    trained_on: tuple[tuple[str, str], ...]
    encoders: tuple[str, ...]
    seed: int | None
    version: str
    operating_point: OperatingPoint | None
    task: Task | None


def read_cards(
    paths: Sequence[Path], problems: list[str]
) -> tuple[dict[str, ModelCard], dict[str, list[EvaluationFacts]]]:
    """Read the runs and the evaluations in folders, by the hash of the model's weights.

    Args:
        paths: folders of runs and of evaluations, or folders that contain these.
        problems: gets messages about what cannot be read.
    """
    evaluations: dict[str, list[EvaluationFacts]] = {}
    for file in _unique(paths, "metrics.json"):
        with list_problem(file, problems):
            metrics = read_metrics(file)
            weights = metrics["model"]["weights_sha256"]
            evaluations.setdefault(weights, []).append(_read_evaluation(file, metrics))
    cards: dict[str, ModelCard] = {}
    descriptions = [*_unique(paths, DESCRIPTION_FILE)]
    descriptions += filter(is_description, _unique(paths, HUB_DESCRIPTION_FILE))
    for file in descriptions:
        with list_problem(file, problems):
            description = read_description(file.parent)
            cards.setdefault(description["weights_sha256"], _read_run(file.parent, description))
    return cards, evaluations


def card_of(record: PredictionRecord, cards: Mapping[str, ModelCard]) -> ModelCard | None:
    """Return the card of the model of a prediction; of several models, that of the first.

    Args:
        record: the prediction.
        cards: cards by the hash of the weights.
    """
    if not record.members:
        return cards.get(record.model.weights_sha256)
    known = [cards[each.weights_sha256] for each in record.members if each.weights_sha256 in cards]
    if not known:
        return None
    names = ", ".join(each.name for each in record.members)
    return replace(known[0], run=f"{known[0].run}, the first of {len(record.members)} ({names})")


def _unique(paths: Sequence[Path], name: str) -> Iterable[Path]:
    found = [file for path in filter(is_folder, paths) for file in files_in(path, name)]
    return dict.fromkeys(found)


def _read_run(run: Path, description: dict[str, Any]) -> ModelCard:
    training = description.get("training") or {}
    point = description.get("operating_point")
    return ModelCard(
        run=printable(run.resolve().name),
        trained_on=tuple(_trained_on(run)),
        encoders=tuple(_encoders(description.get("encoder"))),
        seed=training.get("seed"),
        version=str((description.get("versions") or {}).get("parfocal", "unknown")),
        operating_point=None
        if point is None
        else TypeAdapter(OperatingPoint).validate_python(point),
        task=None if description.get("task") is None else parse_task(description["task"]),
    )


def _trained_on(run: Path) -> Iterable[tuple[str, str]]:
    """Yield each part of the split with its slides, patients and classes, as text."""
    if not (run / "split.csv").is_file():
        return
    rows = read_split(run / "split.csv")
    for part in PARTS:
        of_part = [row for row in rows if row.split == part]
        if of_part:
            classes = Counter(row.label for row in of_part if row.label)
            patients = len({row.patient_id for row in of_part})
            counts = counts_of_each(dict(sorted(classes.items())))
            text = f"{counted(len(of_part), 'slide')} of {counted(patients, 'patient')}"
            yield part, text + (f" ({counts})" if counts else "")


def _encoders(stored: object) -> Iterable[str]:
    """Yield each encoder with its license; nothing for a model that encodes patches itself."""
    every = stored if isinstance(stored, list) else [stored]
    for encoder in every:
        if isinstance(encoder, dict):
            license_text = encoder.get("license", "unknown license")
            yield f"{encoder.get('name', 'unnamed')} (license: {license_text})"


def _read_evaluation(file: Path, metrics: dict[str, Any]) -> EvaluationFacts:
    slides = metrics["slides"]
    classes = counts_of_each({k: each["n"] for k, each in slides.get("classes", {}).items()})
    part = "another cohort" if metrics.get("external") else f"{metrics['split']} slides of the run"
    scores = slides["scores"]
    targets = slides.get("targets", {})
    if len(targets) > 1:
        scores = {
            f"{name}/{target}": score
            for target, each in targets.items()
            for name, score in each.items()
            if isinstance(score, dict) and "value" in score
        }
    names = [name for name in MAIN_SCORES if name in scores] or list(scores)
    return EvaluationFacts(
        name=printable(file.parent.resolve().name),
        slides=f"{counted(slides['n'], 'slide')}{f' ({classes})' if classes else ''}, {part}",
        scores=tuple((score_label(name), score_text(scores[name])) for name in names),
        warnings=tuple(map(str, metrics.get("warnings") or ())),
    )
