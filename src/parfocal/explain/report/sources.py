"""What a report is written from: the files of runs, evaluations and predictions."""

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
from parfocal.explain.library import Library, find_library
from parfocal.explain.read_metrics import read_metrics
from parfocal.explain.truths import files_in


class ReportError(Exception):
    """A report that cannot be written; the message says where was looked, and what to do."""


@dataclass(frozen=True)
class Run:
    """A trained run.

    Args:
        name: of its folder.
        settings: by section.
        slides: how many, by label, then by part of the split.
        epochs: rows of metrics.csv.
        summary: what training came to.
    """

    name: str
    settings: Mapping[str, Mapping[str, Any]]
    slides: Mapping[str, Mapping[str, int]]
    epochs: Sequence[Mapping[str, float | None]]
    summary: Mapping[str, Any]

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the split, in the order of a table."""
        return PARTS


@dataclass(frozen=True)
class Evaluated:
    """An evaluation.

    Args:
        name: of its folder.
        metrics: as metrics.json has them.
        labels: the classes.
        truth: of each slide, the place of its class.
        chances: of each slide, by class.
    """

    name: str
    metrics: Mapping[str, Any]
    labels: tuple[str, ...]
    truth: Int[np.ndarray, " n"]
    chances: Float[np.ndarray, "n c"]


@dataclass(frozen=True)
class Sources:
    """All that was found, in the order of the paths given."""

    runs: tuple[Run, ...]
    evaluations: tuple[Evaluated, ...]
    library: Library


def find_sources(
    paths: Sequence[Path], *, cohort: Path | None = None, moved_to: Sequence[Path] = ()
) -> Sources:
    """Read the runs, evaluations and predictions in folders and the folders within.

    Raises:
        ReportError: there is none of them, or a file of one cannot be read.
        LibraryError: a path is not there, or two tables give a slide different labels.
    """
    library = find_library(paths, cohort=cohort, moved_to=moved_to)
    folders = [path for path in paths if path.is_dir()]
    try:
        runs = tuple(_run(file.parent) for f in folders for file in files_in(f, "settings.yaml"))
        found = [file for folder in folders for file in files_in(folder, "metrics.json")]
        evaluations = tuple(_evaluated(file) for file in found)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ReportError(
            f"a file of a run or an evaluation cannot be read ({error}); train or evaluate again."
        ) from None
    if not (runs or evaluations or library.slides):
        where = ", ".join(str(path) for path in paths)
        raise ReportError(
            f"{where}: no run, evaluation or prediction here or in the folders within; give the "
            "folder that train, evaluate or predict wrote."
        )
    return Sources(runs, evaluations, library)


def _run(folder: Path) -> Run:
    summary = folder / "summary.json"
    return Run(
        name=folder.resolve().name,
        settings=yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8")),
        slides=_counts(folder / "split.csv"),
        epochs=[
            {name: float(value) if value else None for name, value in row.items()}
            for row in _table(folder / "metrics.csv")
        ],
        summary=json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {},
    )


def _counts(split: Path) -> dict[str, Counter[str]]:
    """Count the slides of each label in each part."""
    counts: dict[str, Counter[str]] = {}
    for row in read_split(split) if split.exists() else ():
        counts.setdefault(row.label, Counter())[row.split] += 1
    return dict(sorted(counts.items()))


def _evaluated(file: Path) -> Evaluated:
    metrics = read_metrics(file)
    labels = tuple(metrics["labels"])
    rows = _table(file.parent / "predictions.csv")
    return Evaluated(
        name=file.parent.resolve().name,
        metrics=metrics,
        labels=labels,
        truth=np.array([labels.index(row["label"]) for row in rows]),
        chances=np.array([[float(row[f"prob_{label}"]) for label in labels] for row in rows]),
    )


def _table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
