"""Read the tables that are converted: CSV and TSV files, sheets of workbooks, and splits."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.columns import fold_columns
from parfocal.dataset.errors import CohortError
from parfocal.dataset.rows import NumberedRow
from parfocal.dataset.table import WORKBOOKS, TableError, read_cells
from parfocal.dataset.workbook import sheet_names

TABLES = (".csv", ".tsv", ".txt", *WORKBOOKS)
CONFIG_NAMES = ("config.yaml", "config.yml")
SPLITS_JSON = "splits.json"
CLAM_SPLIT = re.compile(r"splits_(\d+)(_bool)?\.csv")
CLAM_COUNTS = re.compile(r"splits_\d+_descriptor\.csv")  # numbers of slides, no slides
INDEX_NAMES = ("", "Unnamed: 0")  # what pandas calls the index
PARTS_OF_CLAM = {"train", "val", "test"}


@dataclass(frozen=True)
class SourceTable:
    """A table as it is in a file.

    Args:
        path: the file.
        sheet: sheet of a workbook that has several; else None.
        columns: names of the columns, in order.
        rows: row numbers and cells by column.
    """

    path: Path
    sheet: str | None
    columns: tuple[str, ...]
    rows: tuple[NumberedRow, ...]

    @property
    def name(self) -> str:
        """Name of the file, and of the sheet if there are several."""
        return self.path.name if self.sheet is None else f"{self.path.name}, sheet {self.sheet}"

    @property
    def is_split(self) -> bool:
        """Whether the table lists slides under train, val and test, as CLAM does."""
        named = set(self.columns) - set(INDEX_NAMES)
        others = named - PARTS_OF_CLAM
        return "train" in named and bool(named & {"val", "test"}) and len(others) <= 1


@dataclass(frozen=True)
class Sources:
    """Everything that is converted.

    Args:
        tables: tables of slides and patients.
        splits: tables of CLAM, one per fold, in order.
        folds: the splits.json of STAMP, and of each fold the patients of each part.
        config: the config.yaml of Patho-Bench; None if there is none.
    """

    tables: tuple[SourceTable, ...]
    splits: tuple[SourceTable, ...]
    folds: tuple[Path, tuple[dict[str, list[str]], ...]] | None
    config: Path | None


def read_sources(paths: Sequence[Path], sheets: Sequence[str] = ()) -> Sources:
    """Read tables.

    Args:
        paths: tables, splits.json, config.yaml, and folders of them. A config.yaml beside a table
            with folds is read, too.
        sheets: sheets of workbooks; none for all that are not empty.

    Raises:
        CohortError: a file cannot be read, or a folder has no table.
    """
    files = [file for path in paths for file in _files_of(path)]
    tables: list[SourceTable] = []
    splits: list[SourceTable] = []
    folds = None
    config = next((file for file in files if file.name in CONFIG_NAMES), None)
    for file in dict.fromkeys(files):
        if file.suffix.lower() == ".json":
            folds = file, _read_splits_json(file)
        elif file.suffix.lower() not in (".yaml", ".yml"):
            for table in _read_tables(file, sheets):
                (splits if table.is_split else tables).append(table)
    for table in tables:
        if config is None and fold_columns(table.columns):
            beside = [table.path.with_name(name) for name in CONFIG_NAMES]
            config = next((file for file in beside if file.is_file()), None)
    return Sources(tuple(tables), tuple(sorted(splits, key=_split_number)), folds, config)


def _files_of(path: Path) -> list[Path]:
    """Return the file, or the tables and splits in a folder."""
    if not path.is_dir():
        return [path]
    names = sorted(path.iterdir())
    found = [file for file in names if file.suffix.lower() in TABLES and not _is_counts(file)]
    splits = {file: CLAM_SPLIT.fullmatch(file.name) for file in found}
    lists = {split[1] for split in splits.values() if split and not split[2]}
    # CLAM writes each split as lists, and again as yes and no.
    found = [
        file for file, split in splits.items() if not (split and split[2] and split[1] in lists)
    ]
    found += [file for file in names if file.name in (SPLITS_JSON, *CONFIG_NAMES)]
    if not found:
        raise CohortError(
            f"{path}: no table in this folder; give .csv, .tsv or .xlsx files, or the folder of "
            "CLAM's splits."
        )
    return found


def _is_counts(file: Path) -> bool:
    return CLAM_COUNTS.fullmatch(file.name) is not None


def _split_number(table: SourceTable) -> int:
    found = CLAM_SPLIT.fullmatch(table.path.name)
    return int(found[1]) if found else 0


def _read_tables(path: Path, sheets: Sequence[str]) -> Iterator[SourceTable]:
    """Yield the table of a file, or of each sheet of a workbook."""
    try:
        names: Sequence[str | None] = [None]
        if path.suffix.lower() in WORKBOOKS:
            found = sheet_names(path, hidden=bool(sheets))
            names = [name for name in found if name in sheets] if sheets else found
            if not names:
                raise TableError(f"no sheet {sheets[0]!r} (found: {', '.join(found)})")
        several = len(names) > 1
        for name in names:
            cells = read_cells(path, sheet=name)
            if cells or not several:
                yield _table(path, name if several else None, cells)
    except TableError as error:
        where = path.name if path.exists() else str(path)
        raise CohortError(f"{where}: {error}.") from None


def _table(path: Path, sheet: str | None, cells: Sequence[tuple[int, list[str]]]) -> SourceTable:
    if not cells:
        raise TableError("the file is empty; give a table with a row for each slide or patient")
    columns = cells[0][1]
    repeated = [name for name, times in Counter(columns).items() if times > 1 and name]
    if repeated:
        raise TableError(f"column {repeated[0]!r} appears twice; keep one")
    for number, row in cells[1:]:
        if len(row) > len(columns):
            raise TableError(
                f"row {number} has {len(row)} cells under {len(columns)} columns; name every "
                "column, and put a value with a separator in double quotes"
            )
    padding = [""] * len(columns)
    rows = tuple((n, dict(zip(columns, row + padding, strict=False))) for n, row in cells[1:])
    return SourceTable(path, sheet, tuple(columns), rows)


def _read_splits_json(path: Path) -> tuple[dict[str, list[str]], ...]:
    """Read the splits that STAMP writes in a cross-validation."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        folds = tuple(
            {
                part: [str(patient) for patient in fold[f"{part}_patients"]]
                for part in ("train", "val", "test")
                if f"{part}_patients" in fold
            }
            for fold in content["splits"]
        )
    except OSError as error:
        raise CohortError(f"{path}: {error.strerror}; check the path.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        folds = ()
    if not folds or not all(fold.get("train") for fold in folds):
        raise CohortError(
            f"{path.name}: not the splits.json of STAMP, which has `splits` with `train_patients` "
            "and `test_patients`; leave it out."
        )
    return folds
