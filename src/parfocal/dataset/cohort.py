"""A cohort: slides with their labels, from a CSV file.

Everything that can be wrong with the table is found before any slide is opened.
"""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from parfocal.slide.resolution import MAX_MPP, MIN_MPP

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = get_args(Part)

IDENTIFYING = ("slide_id", "path")
REQUIRED = (*IDENTIFYING, "label")
OPTIONAL = ("patient_id", "mpp", "split", "fold", "stratum", "outlines")

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # of tables that are no CSV here


class CohortError(Exception):
    """A cohort that cannot be used as asked; the message says which, what and what to do."""


@dataclass(frozen=True)
class CohortSlide:
    """One row of a cohort.

    Args:
        slide_id: as written, so that `007` stays `007`.
        path: of the slide file; where the row said a relative one, from the CSV's own folder.
        label: the class.
        patient_id: slides of one patient never part; the slide's own id where none is given.
        row: of the CSV file, the header being row 1.
        mpp: microns per pixel at level 0, for a file that does not say; None to read it there.
        split: the part the CSV puts it in.
        fold: the fold in which it is a test slide.
        stratum: a group to balance over the parts and to report apart, as a center.
        outlines: GeoJSON of the lesions.
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
    """Labeled slides, and the order of their classes."""

    source: Path
    slides: tuple[CohortSlide, ...]
    labels: tuple[str, ...]


def read_cohort(path: Path, *, labels: Sequence[str] | None = None) -> Cohort:
    """Read a cohort from a CSV file with columns slide_id, path and label.

    It may also have patient_id, mpp, split (train, val, test) or fold (whole numbers), stratum
    and outlines; other columns are ignored. Slide files need not exist: see `require_files`.

    Args:
        path: the CSV file, UTF-8, with a header.
        labels: the classes in order, as of a trained model; None for those found, sorted.

    Raises:
        CohortError: the table cannot be read, or a row of it is wrong.
    """
    slides = tuple(_slide(path, number, row) for number, row in _rows(path, REQUIRED))
    found = tuple(sorted({slide.label for slide in slides}))
    if labels is None and len(found) == 1:
        raise CohortError(
            f"{path.name}: every slide is labeled {found[0]!r}, and a model learns to tell "
            "classes apart; add slides of another class."
        )
    for slide in slides:
        if labels is not None and slide.label not in labels:
            raise CohortError(
                f"{path.name} row {slide.row}: unknown label {slide.label!r}; the classes are "
                f"{', '.join(labels)}."
            )
    return Cohort(path, slides, tuple(labels) if labels is not None else found)


def read_slides(path: Path) -> tuple[tuple[str, Path, float | None], ...]:
    """Read id, file and mpp of the slides of a cohort, which needs no labels for that.

    Args:
        path: the CSV file, with columns slide_id and path, and mpp where files do not say.

    Raises:
        CohortError: the table cannot be read, or a row of it is wrong.
    """
    slides = []
    for number, row in _rows(path, IDENTIFYING):
        mpp = _mpp(f"{path.name} row {number}", row.get("mpp"))
        slides.append((row["slide_id"], path.parent / row["path"], mpp))
    return tuple(slides)


def require_files(source: Path, files: Iterable[tuple[CohortSlide, Path]], kind: str) -> None:
    """Refuse a cohort of which files are missing, naming every one.

    Args:
        source: the CSV file.
        files: each with the slide that needs it.
        kind: what they are, for the message.
    """
    missing = [f"{path} (row {slide.row})" for slide, path in files if not path.exists()]
    if missing:
        raise CohortError(
            f"{source.name}: {len(missing)} {kind} missing: {', '.join(missing)}. Relative paths "
            "start at the folder of the CSV file."
        )


def _rows(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Give the rows, a slide each, with their numbers; the columns required are filled."""
    rows = _cells(path, required)
    if not rows:
        raise CohortError(f"{path.name}: no slides below the header; add a row for each.")
    for number, row in rows:
        _check_identity(f"{path.name} row {number}", row, required)
    _refuse_duplicates(path, rows)
    return rows


def _cells(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Give the rows that are not blank, stripped, with their numbers."""
    try:
        # utf-8-sig: spreadsheets write a byte-order mark that would join the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (FileNotFoundError, IsADirectoryError):
        found = "a folder" if path.is_dir() else "no such file"
        raise CohortError(f"{path}: {found}; give a cohort's CSV file.") from None
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise CohortError(f"{path.name}: not a CSV file ({error}); save it as UTF-8 CSV.") from None
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise CohortError(f"{path.name}: the file is empty; it needs {', '.join(required)}.")
    header = lines[0][1]
    _check_header(path, header, required)
    for number, cells in lines[1:]:
        if len(cells) > len(header):
            raise CohortError(
                f"{path.name} row {number}: {len(cells)} cells under {len(header)} columns; put "
                "a value that holds a comma in double quotes."
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
                f"{path.name}: its columns are separated by {name}; separate them by commas (a "
                "spreadsheet offers it as it saves, as CSV, comma separated)."
            )
    if missing:
        raise CohortError(
            f"{path.name}: no column {', '.join(missing)} (found: {', '.join(header)}); it needs "
            f"{', '.join(required)} and may have {', '.join(OPTIONAL)}."
        )
    twice = [column for column, times in Counter(header).items() if times > 1 and column]
    if twice:
        raise CohortError(f"{path.name}: column {twice[0]!r} is there twice; keep one.")
    if {"split", "fold"} <= set(header):
        raise CohortError(f"{path.name}: it has both split and fold; keep one of them.")


def _check_identity(where: str, row: dict[str, str], required: Sequence[str]) -> None:
    for column in required:
        if not row[column]:
            raise CohortError(f"{where}: {column} is empty; every slide needs one.")
    if "/" in row["slide_id"] or "\\" in row["slide_id"]:
        raise CohortError(
            f"{where}: slide_id {row['slide_id']!r} has a slash, and it names files; leave it out."
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
        raise CohortError(f"{where}: no outlines at {slide.outlines}; correct or empty the cell.")
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
            f"{where}: mpp {text!r} is not a number of microns per pixel within {MIN_MPP:g} to "
            f"{MAX_MPP:g} (a 40x scan is about 0.25, 20x about 0.5); correct it, or leave it empty "
            "to use the file's."
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


def _refuse_duplicates(path: Path, rows: list[tuple[int, dict[str, str]]]) -> None:
    first: dict[str, int] = {}
    for number, row in rows:
        slide_id = row["slide_id"]
        if slide_id in first:
            raise CohortError(
                f"{path.name} row {number}: slide_id {slide_id!r} is also in row "
                f"{first[slide_id]}; give each slide an id of its own."
            )
        first[slide_id] = number
