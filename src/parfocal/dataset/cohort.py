"""Read a cohort: slides with their labels, from a CSV file or an .xlsx workbook.

The whole table is checked before any slide is opened.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from parfocal.dataset.table import TableError, read_cells
from parfocal.slide.resolution import MAX_MPP, MIN_MPP

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

IDENTIFYING = ("slide_id", "path")
REQUIRED = (*IDENTIFYING, "label")
OPTIONAL = ("patient_id", "mpp", "split", "fold", "stratum", "outlines")

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}  # that are not accepted

NumberedRow = tuple[int, dict[str, str]]  # row number in the file, and the cells by column


class CohortError(Exception):
    """A cohort that cannot be used; the message names the row, what was found and what to do."""


@dataclass(frozen=True)
class CohortSlide:
    """One row of a cohort.

    Args:
        slide_id: the id as written, so that `007` stays `007`.
        path: the slide file; a relative path starts at the folder of the table.
        label: the class.
        patient_id: the patient; all slides of a patient stay in one part. The slide id where the
            table gives no patient.
        row: row number in the table; the header is row 1.
        mpp: microns per pixel at level 0, for a file without it; None to use the file's.
        split: the part that the table assigns the slide to.
        fold: the fold in which it is a test slide.
        stratum: a group, for example a center, to balance over the parts and to report separately.
        outlines: GeoJSON file of the lesions.
    """

    slide_id: str
    path: Path
    label: str
    patient_id: str
    row: int
    mpp: float | None = None
    split: Part | None = None
    fold: int | None = None
    stratum: str | None = None
    outlines: Path | None = None


@dataclass(frozen=True)
class Cohort:
    """Labeled slides.

    Args:
        source: the table.
        slides: its rows, in order.
        labels: the classes, in the order of a model's logits.
    """

    source: Path
    slides: tuple[CohortSlide, ...]
    labels: tuple[str, ...]


def read_cohort(path: Path, *, labels: Sequence[str] | None = None) -> Cohort:
    """Read a cohort from a table with the columns slide_id, path and label.

    Optional columns are patient_id, mpp, split (train, val, test) or fold (whole numbers), stratum
    and outlines; other columns are ignored. Slide files need not exist: see `require_files`.

    Args:
        path: a UTF-8 CSV file, or an .xlsx workbook of which the first sheet is read; the first
            row is the header.
        labels: the classes in order, for example those of a trained model; None for the labels in
            the table, sorted.

    Raises:
        CohortError: the table cannot be read, or a row is invalid.
    """
    slides = tuple(_slide(path, number, row) for number, row in _read_rows(path, REQUIRED))
    found = tuple(sorted({slide.label for slide in slides}))
    if labels is None and len(found) == 1:
        raise CohortError(
            f"{path.name}: every slide has the label {found[0]!r}, and a classifier needs at least "
            "two classes; add slides of another class."
        )
    for slide in slides:
        if labels is not None and slide.label not in labels:
            raise CohortError(
                f"{path.name} row {slide.row}: unknown label {slide.label!r}; the classes are "
                f"{', '.join(labels)}."
            )
    return Cohort(path, slides, tuple(labels) if labels is not None else found)


def read_slides(path: Path) -> tuple[tuple[str, Path, float | None], ...]:
    """Read id, file and mpp of each slide of a cohort; labels are not needed.

    Args:
        path: a table with the columns slide_id and path, and optionally mpp.

    Raises:
        CohortError: the table cannot be read, or a row is invalid.
    """
    slides = []
    for number, row in _read_rows(path, IDENTIFYING):
        mpp = _mpp(f"{path.name} row {number}", row.get("mpp"))
        slides.append((row["slide_id"], path.parent / row["path"], mpp))
    return tuple(slides)


def require_files(source: Path, files: Iterable[tuple[CohortSlide, Path]], kind: str) -> None:
    """Check that files exist.

    Args:
        source: the table of the cohort, for the message.
        files: each file with the slide that needs it.
        kind: what the files are, for the message.

    Raises:
        CohortError: files are missing; the message lists all of them.
    """
    missing = [f"{path} (row {slide.row})" for slide, path in files if not path.exists()]
    if missing:
        raise CohortError(
            f"{source.name}: {len(missing)} {kind} missing: {', '.join(missing)}. Relative paths "
            "start at the folder of the cohort file."
        )


def _read_rows(path: Path, required: Sequence[str]) -> list[NumberedRow]:
    """Read the rows of a table, one slide each, with the required columns filled."""
    rows = _rows_by_column(path, required)
    if not rows:
        raise CohortError(f"{path.name}: no slides below the header; add a row for each.")
    for number, row in rows:
        _check_identity(f"{path.name} row {number}", row, required)
    _refuse_duplicates(path, rows)
    return rows


def _rows_by_column(path: Path, required: Sequence[str]) -> list[NumberedRow]:
    try:
        lines = read_cells(path)
    except TableError as error:
        if not path.is_file():
            raise CohortError(f"{path}: {error}; give a cohort, a .csv or .xlsx file.") from None
        raise CohortError(f"{path.name}: {error}.") from None
    if not lines:
        raise CohortError(f"{path.name}: the file is empty; it needs {', '.join(required)}.")
    header = lines[0][1]
    _check_header(path, header, required)
    for number, cells in lines[1:]:
        if len(cells) > len(header):
            raise CohortError(
                f"{path.name} row {number}: {len(cells)} cells under {len(header)} columns; name "
                "every column, and in a CSV file put a value with a comma in double quotes."
            )
    padding = [""] * len(header)
    return [
        (number, dict(zip(header, cells + padding, strict=False))) for number, cells in lines[1:]
    ]


def _check_header(path: Path, header: list[str], required: Sequence[str]) -> None:
    missing = [column for column in required if column not in header]
    for separator, name in SEPARATORS.items():
        if missing and separator in header[0]:
            raise CohortError(
                f"{path.name}: the columns are separated by {name}; separate them by commas (in a "
                "spreadsheet, save as CSV, comma separated, or as .xlsx)."
            )
    if missing:
        raise CohortError(
            f"{path.name}: no column {', '.join(missing)} (found: {', '.join(header)}); it needs "
            f"{', '.join(required)} and may have {', '.join(OPTIONAL)}."
        )
    repeated = [column for column, times in Counter(header).items() if times > 1 and column]
    if repeated:
        raise CohortError(f"{path.name}: column {repeated[0]!r} appears twice; keep one.")
    if {"split", "fold"} <= set(header):
        raise CohortError(f"{path.name}: it has both split and fold; keep one of them.")


def _check_identity(where: str, row: dict[str, str], required: Sequence[str]) -> None:
    for column in required:
        if not row[column]:
            raise CohortError(f"{where}: {column} is empty; every slide needs one.")
    if "/" in row["slide_id"] or "\\" in row["slide_id"]:
        raise CohortError(
            f"{where}: slide_id {row['slide_id']!r} contains a slash, and files are named after "
            "it; remove the slash."
        )


def _slide(path: Path, number: int, row: dict[str, str]) -> CohortSlide:
    where = f"{path.name} row {number}"
    slide_id, outlines = row["slide_id"], row.get("outlines")
    slide = CohortSlide(
        slide_id=slide_id,
        path=path.parent / row["path"],
        label=row["label"],
        patient_id=row.get("patient_id") or slide_id,
        row=number,
        mpp=_mpp(where, row.get("mpp")),
        split=_split(where, row["split"]) if "split" in row else None,
        fold=_fold(where, row["fold"]) if "fold" in row else None,
        stratum=row.get("stratum") or None,
        outlines=path.parent / outlines if outlines else None,
    )
    if slide.outlines and not slide.outlines.exists():
        raise CohortError(
            f"{where}: no outlines at {slide.outlines}; correct the cell or leave it empty."
        )
    return slide


def _mpp(where: str, text: str | None) -> float | None:
    if not text:
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = math.nan
    if not MIN_MPP <= mpp <= MAX_MPP:
        raise CohortError(
            f"{where}: mpp {text!r} is not a number of microns per pixel from {MIN_MPP:g} to "
            f"{MAX_MPP:g} (a 40x scan is about 0.25, 20x about 0.5); correct the cell, or leave it "
            "empty to use the file's."
        )
    return mpp


def _split(where: str, text: str) -> Part:
    for part in PARTS:
        if text.lower() == part:
            return part
    raise CohortError(f"{where}: unknown split {text!r}; use {', '.join(PARTS)}.")


def _fold(where: str, text: str) -> int:
    if not text.isdecimal():
        raise CohortError(f"{where}: fold {text!r} is not a whole number; count folds from 0.")
    return int(text)


def _refuse_duplicates(path: Path, rows: list[NumberedRow]) -> None:
    first: dict[str, int] = {}
    for number, row in rows:
        slide_id = row["slide_id"]
        if slide_id in first:
            raise CohortError(
                f"{path.name} row {number}: slide_id {slide_id!r} is also in row "
                f"{first[slide_id]}; give each slide its own id."
            )
        first[slide_id] = number
