"""Settings of a cohort that is small enough for training in a test, and a writer of CSV files."""

import csv
from pathlib import Path

SLIDES = 12
TINY = ("--encoder", "tiny", "--magnifications", "2.5,10")


def write_table(path: Path, *rows: tuple[str, ...]) -> Path:
    """Write rows as a CSV file."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path
