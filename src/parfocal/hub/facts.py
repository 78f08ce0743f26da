"""What a model card says about the training and the evaluation of a run: counts and metrics only.

Nothing that names a slide, a patient or a file is read into these facts.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal.dataset.split import read_split
from parfocal.explain.read_metrics import read_metrics
from parfocal.hub.repository import HubError
from parfocal.metrics import SCORE_LABELS, Score
from parfocal.models.checkpoint import Checkpoint
from parfocal.tasks import task_of
from parfocal.validation import validate

EVALUATION_FOLDER = "evaluation"


ALL = "slides"  # the one group of a task without classes


@dataclass(frozen=True)
class Count:
    """A number of slides, and of the patients that they are of."""

    slides: int
    patients: int


@dataclass(frozen=True)
class EvaluationFacts:
    """The result of an evaluation.

    Args:
        part: the evaluated part of the cohort.
        external: whether the cohort is another than that of the training.
        stored: whether features were read from files, so that the cost is of the model alone.
        counts: number of slides of each class.
        scores: scores by the name of the metric.
        by_class: scores of each class, by the name of the metric.
        cost: mean per slide of patches, share of patches in 0..1, MACs and seconds; those that are
            known.
        failed: number of slides that could not be read.
        seen_in_training: number of slides that were used in training.
    """

    part: str
    external: bool
    stored: bool
    counts: dict[str, int]
    scores: dict[str, Score]
    by_class: dict[str, dict[str, Score]]
    cost: dict[str, float]
    failed: int
    seen_in_training: int


@dataclass(frozen=True)
class RunFacts:
    """Counts of a run, and its evaluation.

    Args:
        data: number of slides and patients, by part and class.
        unreadable: number of slides that were left out because they could not be read.
        evaluation: the evaluation; None if there is none.
    """

    data: dict[str, dict[str, Count]]
    unreadable: int
    evaluation: EvaluationFacts | None


def read_facts(run: Path, trained: Checkpoint, evaluation: Path | None) -> RunFacts:
    """Read the facts for a model card.

    Args:
        run: folder of the run.
        trained: its model.
        evaluation: folder of an evaluation; None for `evaluation` in the run, if there is one.

    Raises:
        HubError: the evaluation is missing or damaged, or is of another model.
    """
    folder = evaluation or run / EVALUATION_FOLDER
    metrics = None
    if evaluation is not None or (folder / "metrics.json").is_file():
        metrics = _read_evaluation(folder, trained)
    return RunFacts(_count_data(run, trained), _count_unreadable(run), metrics)


def _count_data(run: Path, trained: Checkpoint) -> dict[str, dict[str, Count]]:
    """Count slides and patients of each class in each part; empty if the run has no split."""
    if not (run / "split.csv").is_file():
        return {}
    slides: dict[tuple[str, str], list[str]] = defaultdict(list)
    classes = task_of(trained).classes
    for row in read_split(run / "split.csv"):
        slides[row.split, row.label if classes else ALL].append(row.patient_id)
    return {
        part: {
            label: Count(len(slides[part, label]), len(set(slides[part, label])))
            for label in classes or (ALL,)
        }
        for part in ("train", "val", "test")
    }


def _count_unreadable(run: Path) -> int:
    try:
        failed = json.loads((run / "summary.json").read_text(encoding="utf-8"))["failed"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return len(failed) if isinstance(failed, dict) else 0


def _read_evaluation(folder: Path, trained: Checkpoint) -> EvaluationFacts:
    path = folder / "metrics.json"
    try:
        metrics = read_metrics(path)
    except FileNotFoundError:
        raise HubError(
            f"{folder}: no metrics.json; give the folder that `parfocal evaluate` wrote."
        ) from None
    except (OSError, ValueError) as error:
        raise HubError(f"{path}: cannot be read ({error}); evaluate again.") from None
    try:
        if metrics["model"]["weights_sha256"] != trained.weights_hash:
            raise HubError(
                f"{path}: an evaluation of another model; give one of this run, or evaluate it."
            )
        return _parse_evaluation(metrics)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HubError(
            f"{path}: damaged ({type(error).__name__}: {error}); evaluate again."
        ) from None


def _parse_evaluation(metrics: dict[str, Any]) -> EvaluationFacts:
    slides = metrics["slides"]
    classes = {
        str(label): {
            name: validate(Score, value) for name, value in each.items() if isinstance(value, dict)
        }
        for label, each in slides.get("classes", slides.get("targets", {})).items()
    }
    counts = {label: each["n"] for label, each in slides.get("classes", {}).items()}
    return EvaluationFacts(
        part=str(metrics["split"]),
        external=bool(metrics["external"]),
        stored=metrics["features"] == "stored",
        counts={str(label): int(n) for label, n in (counts or {ALL: slides["n"]}).items()},
        scores={
            name: validate(Score, value)
            for name, value in slides["scores"].items()
            if name in SCORE_LABELS
        },
        by_class=classes,
        cost=_parse_cost(metrics["cost"]),
        failed=len(metrics["failed"]),
        seen_in_training=int(metrics.get("seen_in_training", 0)),
    )


def _parse_cost(cost: dict[str, Any]) -> dict[str, float]:
    """Return the means that are known."""
    patches = [step["mean"] for step in cost["patches"]]
    means = {**cost, "patches": {"mean": sum(patches)}}
    return {
        name: float(means[name]["mean"])
        for name in ("patches", "share_patches", "macs", "seconds")
        if isinstance(means.get(name), dict) and means[name].get("mean") is not None
    }
