"""Read the files that a report shows: runs, evaluations and predictions."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float, Int

from parfocal.dataset.cohort import PARTS
from parfocal.dataset.split import read_split
from parfocal.encoders.per_magnification import encoder_text
from parfocal.explain.library import Library, find_library, list_problem
from parfocal.explain.read_metrics import read_metrics
from parfocal.explain.truths import files_in, require_file
from parfocal.files import is_folder
from parfocal.printable import printable


class ReportError(Exception):
    """A report that cannot be written."""


@dataclass(frozen=True)
class Run:
    """A training run.

    Args:
        folder: its folder.
        settings: settings by section.
        slides: number of slides by label and part of the split.
        epochs: rows of metrics.csv.
        summary: content of summary.json; empty if the run is not finished.
    """

    folder: Path
    settings: Mapping[str, Mapping[str, Any]]
    slides: Mapping[str, Mapping[str, int]]
    epochs: Sequence[Mapping[str, float | None]]
    summary: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the folder, as printable text."""
        return printable(self.folder.resolve().name)

    @property
    def encoder(self) -> str | None:
        """Names of the encoders, as `--encoder` takes them; None for a model that takes pixels."""
        name = self.settings.get("encoder", {}).get("name")
        return encoder_text(list(name.values()), list(name)) if isinstance(name, dict) else name

    @property
    def zoom_warning(self) -> str | None:
        """Why the model has not learned where to zoom; None if there is no sign of that."""
        zoom = self.summary.get("zoom")  # summaries of before have none
        return zoom.get("warning") if isinstance(zoom, dict) else None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of the split."""
        return PARTS


@dataclass(frozen=True)
class Evaluation:
    """An evaluation.

    Args:
        file: its metrics.json.
        metrics: content of metrics.json.
        labels: the classes.
        truth: index of the true class of each slide.
        probabilities: class probabilities of each slide.
    """

    file: Path
    metrics: Mapping[str, Any]
    labels: tuple[str, ...]
    truth: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n c"]

    @property
    def name(self) -> str:
        """Name of the folder, as printable text."""
        return printable(self.file.parent.resolve().name)


@dataclass(frozen=True)
class Sources:
    """Everything that a report shows, in the order of the paths given.

    Args:
        runs: training runs.
        evaluations: evaluations.
        library: slides and predictions.
    """

    runs: tuple[Run, ...]
    evaluations: tuple[Evaluation, ...]
    library: Library


def find_sources(
    paths: Sequence[Path], *, cohort: Path | None = None, moved_to: Sequence[Path] = ()
) -> Sources:
    """Read the runs, evaluations and predictions in folders and their direct subfolders.

    What cannot be read is in `library.problems`, and ends nothing.

    Args:
        paths: folders and prediction files.
        cohort: cohort table with the labels of the slides, if none is in the folders.
        moved_to: folders in which to look for slide files that have moved since the prediction.

    Raises:
        ReportError: there is nothing to report.
        LibraryError: tables disagree on the label of a slide.
    """
    library = find_library(paths, cohort=cohort, moved_to=moved_to)
    runs, evaluations = [], []
    for folder in filter(is_folder, paths):
        for file in files_in(folder, "settings.yaml"):
            with list_problem(file, library.problems):
                runs.append(_read_run(file.parent))
        for file in files_in(folder, "metrics.json"):
            with list_problem(file, library.problems):
                evaluations.append(_read_evaluation(file))
    if not (runs or evaluations or library.slides or library.failed):
        raise _nothing_found(paths, library.problems)
    return Sources(tuple(runs), tuple(evaluations), library)


def _nothing_found(paths: Sequence[Path], problems: Sequence[str]) -> ReportError:
    if problems:
        return ReportError(problems[0])
    searched = ", ".join(str(path) for path in paths)
    return ReportError(
        f"{searched}: no run, evaluation or prediction here or in the direct subfolders; give the "
        "folder that train, evaluate or predict wrote."
    )


def _read_run(folder: Path) -> Run:
    summary = folder / "summary.json"
    for name in ("settings.yaml", "split.csv", "metrics.csv", "summary.json"):
        require_file(folder / name)
    return Run(
        folder=folder,
        settings=yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8")),
        slides=_count_slides(folder / "split.csv"),
        epochs=[
            {name: float(value) if value else None for name, value in row.items()}
            for row in _read_table(folder / "metrics.csv")
        ],
        summary=json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {},
    )


def _count_slides(split: Path) -> dict[str, Counter[str]]:
    """Count the slides of each label in each part of the split."""
    counts: dict[str, Counter[str]] = {}
    for row in read_split(split) if split.exists() else ():
        counts.setdefault(row.label, Counter())[row.split] += 1
    return dict(sorted(counts.items()))


def _read_evaluation(file: Path) -> Evaluation:
    for path in (file, file.with_name("predictions.csv")):
        require_file(path)
    metrics = read_metrics(file)
    labels = tuple(metrics["labels"])
    rows = _read_table(file.parent / "predictions.csv")
    if "confusion" not in metrics["slides"]:  # a task without classes
        empty = np.zeros((0, 0))
        return Evaluation(file, metrics, (), np.zeros(0, dtype=np.int64), empty)
    return Evaluation(
        file=file,
        metrics=metrics,
        labels=labels,
        truth=np.array([labels.index(row["label"]) for row in rows]),
        probabilities=np.array([[float(row[f"prob_{label}"]) for label in labels] for row in rows]),
    )


def _read_table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
