"""What runs came to, as the numbers of a paper's table."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from parfocal.compare import Row, Timing
from parfocal.explain.read_metrics import read_metrics
from parfocal.reproduce.experiments import Column, PaperRow


@dataclass(frozen=True)
class Outcome:
    """An experiment that was run.

    Args:
        row: of the comparison it took part in.
        runs: its run folders, one a seed.
    """

    row: Row
    runs: tuple[Path, ...]

    @property
    def reason(self) -> str | None:
        """Why it failed; None if it did not."""
        return self.row.result.reason

    @property
    def learned_without(self) -> int:
        """How many slides could not be used in training."""
        return max(len(_rows(run / "failed.csv")) for run in self.runs)


@dataclass(frozen=True)
class Value:
    """A number over seeds: their mean, and their standard deviation where there are several."""

    mean: float
    sd: float | None = None


def value_of(column: Column, row: PaperRow, tested: Mapping[str, Outcome]) -> Value | None:
    """Give our number for a cell; None where there is none.

    Args:
        column: of the table.
        row: of the table.
        tested: experiments by name.
    """
    found = [
        _over_seeds(column.of.format(at=row.at), tested[column.run.format(name)])
        for name in row.runs
    ]
    if not found or any(not values for values in found):
        return None
    totals = [sum(values) * column.scale for values in zip(*found, strict=True)]
    return Value(fmean(totals), stdev(totals) if len(totals) > 1 else None)


def device_of(timing: Timing) -> str | None:
    """Give the device whose seconds stand in the table; None where nothing was timed."""
    return "cuda" if "cuda" in timing else next(iter(timing), None)


def _over_seeds(of: str, tested: Outcome) -> list[float]:
    """Give a number, one for each seed where each has its own."""
    result = tested.row.result
    if result.reason is not None:
        return []
    if of == "macs":
        return [result.macs]
    if of == "seconds":
        device = device_of(result.seconds)
        return [] if device is None else [result.seconds[device]["total"]]
    if of == "epoch_seconds":
        return [_seconds_of_an_epoch(run) for run in tested.runs]
    values = [_at(of.split("/"), run) for run in tested.runs]
    return [value for value in values if value is not None]


def _at(path: Sequence[str], run: Path) -> float | None:
    """Follow a path into the evaluation of a run; None where it leads nowhere."""
    found: Any = read_metrics(run / "evaluation" / "metrics.json")
    for key in path:
        if isinstance(found, list):
            found = found[int(key)] if int(key) < len(found) else None
        else:
            found = None if found is None else found.get(key)
    return None if found is None else float(found)


def _seconds_of_an_epoch(run: Path) -> float:
    return fmean(float(epoch["seconds"]) for epoch in _rows(run / "metrics.csv"))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
