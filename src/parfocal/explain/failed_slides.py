"""Read which slides failed to be predicted, from the tables that `parfocal predict` wrote."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parfocal.printable import printable
from parfocal.slide.failure import shorten

REQUIRED = {"slide_id", "path", "failed"}  # columns; the table of an evaluation lacks two of them
MAX_CELL = 2**24  # characters; an earlier parfocal wrote reasons of any length


@dataclass(frozen=True)
class FailedPrediction:
    """A slide that could not be predicted.

    Args:
        id: name of the slide.
        path: the slide file, as printable text.
        reason: why it failed, in at most 500 characters.
        folder: name of the folder of predictions.
    """

    id: str
    path: str
    reason: str
    folder: str


def read_failed(table: Path) -> Iterator[FailedPrediction]:
    """Yield the failed slides of a predictions.csv; none for a table of an evaluation.

    Raises:
        OSError: the table cannot be read.
        ValueError: it is not a CSV file in UTF-8.
    """
    limit = csv.field_size_limit(MAX_CELL)
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if not set(rows.fieldnames or ()) >= REQUIRED:
                return
            for row in rows:
                if row["failed"]:
                    yield FailedPrediction(
                        printable(row["slide_id"] or ""),
                        printable(row["path"] or ""),
                        shorten(row["failed"]),
                        printable(table.parent.resolve().name),
                    )
    except csv.Error as error:
        raise ValueError(f"{table}: {error}") from error
    finally:
        csv.field_size_limit(limit)
