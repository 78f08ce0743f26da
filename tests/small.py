"""A cohort small enough to be trained on within a test."""

import csv
from pathlib import Path

SLIDES = 12
TINY = ("--encoder", "tiny", "--magnifications", "2.5,10")


def write_table(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path
