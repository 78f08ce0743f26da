"""Read the numbers of a paper's table from finished runs."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from parfocal.compare import ComparisonRow, Timing
from parfocal.explain.read_metrics import read_metrics
from parfocal.reproduce.experiments import Column, PaperRow


@dataclass(frozen=True)
class ExperimentResult:
    """An experiment that was run.

    Args:
        row: its row in the comparison.
        runs: run folders, one per seed.
    """

    row: ComparisonRow
    runs: tuple[Path, ...]

    @property
    def reason(self) -> str | None:
        """Why it failed; None if it did not."""
        return self.row.result.reason

    @property
    def skipped_training_slides(self) -> int:
        """Number of slides that could not be used in training."""
        return max(len(_rows(run / "failed.csv")) for run in self.runs)


@dataclass(frozen=True)
class Value:
    """Mean over seeds, and their standard deviation if there are several."""

    mean: float
    sd: float | None = None


def value_of(
    column: Column, row: PaperRow, results: Mapping[str, ExperimentResult]
) -> Value | None:
    """Return our number for a cell; None if there is none.

    Args:
        column: column of the cell.
        row: row of the cell.
        results: experiments by name.
    """
    by_experiment = [
        _by_seed(column.source.format(index=row.index), results[column.run.format(name)])
        for name in row.runs
    ]
    if not by_experiment or any(not values for values in by_experiment):
        return None
    totals = [sum(values) * column.scale for values in zip(*by_experiment, strict=True)]
    return Value(fmean(totals), stdev(totals) if len(totals) > 1 else None)


def timed_device(timing: Timing) -> str | None:
    """Return the device whose seconds are printed; None if nothing was timed."""
    return "cuda" if "cuda" in timing else next(iter(timing), None)


def _by_seed(source: str, result: ExperimentResult) -> list[float]:
    """Return the values of an experiment, one per seed if they differ between seeds."""
    compared = result.row.result
    if compared.reason is not None:
        return []
    if source == "macs":
        return [] if compared.macs is None else [compared.macs]
    if source == "seconds":
        device = timed_device(compared.seconds)
        return [] if device is None else [compared.seconds[device]["total"]]
    if source == "epoch_seconds":
        return [_mean_epoch_seconds(run) for run in result.runs]
    values = [_lookup(source.split("/"), run) for run in result.runs]
    return [value for value in values if value is not None]


def _lookup(path: Sequence[str], run: Path) -> float | None:
    """Return the number at a path of metrics.json; None if there is none."""
    value: Any = read_metrics(run / "evaluation" / "metrics.json")
    for key in path:
        if isinstance(value, list):
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = None if value is None else value.get(key)
    return None if value is None else float(value)


def _mean_epoch_seconds(run: Path) -> float:
    return fmean(float(epoch["seconds"]) for epoch in _rows(run / "metrics.csv"))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
