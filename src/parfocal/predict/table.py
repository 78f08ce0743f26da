"""Read and write predictions.csv, the table of all slides predicted into a folder."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from parfocal.explain.record import PredictionRecord
from parfocal.files import write_whole
from parfocal.slide.identity import slide_id


def header(labels: Sequence[str]) -> list[str]:
    """Return the column names."""
    return ["slide_id", "path", "predicted", *(f"prob_{label}" for label in labels), "failed"]


def row(record: PredictionRecord, labels: Sequence[str]) -> list[str]:
    """Return the row of a predicted slide."""
    probabilities = [f"{record.probabilities[label]:.6f}" for label in labels]
    return [record.slide.id, record.slide.path or "", record.label, *probabilities, ""]


def failed_row(path: Path, reason: str, labels: Sequence[str]) -> list[str]:
    """Return the row of a slide that failed, with the reason in the last column."""
    return [slide_id(path), str(path.absolute()), "", *("" for _ in labels), reason]


def read_rows(path: Path, labels: Sequence[str]) -> dict[str, list[str]]:
    """Read the rows that earlier calls wrote, by slide; none if there is no table yet.

    Raises:
        ValueError: the table is of other classes.
    """
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        columns, *rows = [row for row in csv.reader(file) if row] or [[]]
    if columns != header(labels):
        raise ValueError(
            f"{path}: the columns are {', '.join(columns)}, but the classes of this model are "
            f"{', '.join(labels)}; predict into another folder."
        )
    return {row[0]: row for row in rows}


def write_rows(path: Path, labels: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write the table, completely or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header(labels), *rows])
    write_whole(path, text.getvalue().encode())
