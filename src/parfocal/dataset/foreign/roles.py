"""Tell what a table is about by its columns: slides, patients, labels and folds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parfocal.dataset.columns import fold_columns, plain_column
from parfocal.dataset.errors import CohortError
from parfocal.dataset.foreign.source import INDEX_NAMES, SourceTable

Layout = Literal["stamp", "clam", "patho-bench", "excel"]
TITLES: dict[Layout, str] = {
    "stamp": "STAMP",
    "clam": "CLAM",
    "patho-bench": "Patho-Bench",
    "excel": "a table of slides",
}

# Names of columns, without case, spaces, "-" and "_"; the first that a table has is meant.
PATIENT = ("patientid", "patient", "caseid", "case", "subjectid", "subject", "participantid")
SLIDE = (
    *("slideid", "slidename", "slide", "filename", "file", "imageid", "imagename", "image"),
    *("wsiid", "wsiname", "wsi", "slidepath", "imagepath", "wsipath", "path"),
)
PATH = ("path", "slidepath", "filepath", "imagepath", "wsipath", "filename", "file", "wsi")
LABEL = ("label", "class")


@dataclass(frozen=True)
class Columns:
    """The columns of a table that have a meaning here.

    Args:
        slide: name of the slide; None in a table of patients.
        path: the slide file, where it is another column than `slide`.
        patient: the patient; None if the table has none.
        label: the class, if a column has the usual name.
        folds: parts of each fold.
    """

    slide: str | None
    path: str | None
    patient: str | None
    label: str | None
    folds: tuple[str, ...]

    @property
    def named(self) -> set[str]:
        """The columns that have a meaning, without the label."""
        return {name for name in (self.slide, self.path, self.patient) if name} | set(self.folds)


def find_columns(
    table: SourceTable, *, slide: str | None = None, patient: str | None = None
) -> Columns:
    """Return the columns of a table that have a meaning.

    Args:
        table: the table.
        slide: column of slides, if the user names it; another name is then not looked for.
        patient: column of patients, if the user names it.
    """
    found_slide = _named(table, slide) if slide else _first(table.columns, SLIDE)
    path = _first(table.columns, PATH)
    return Columns(
        slide=found_slide,
        path=None if path == found_slide or found_slide is None else path,
        patient=_named(table, patient) if patient else _first(table.columns, PATIENT),
        label=_first(table.columns, LABEL),
        folds=tuple(fold_columns(table.columns)),
    )


def layout_of(tables: Sequence[tuple[SourceTable, Columns]], *, has_splits: bool) -> Layout:
    """Return the tool that a set of tables is of, by its columns.

    Args:
        tables: the tables with their columns.
        has_splits: whether there are tables of CLAM's splits.
    """
    names = {name for table, _ in tables for name in table.columns}
    if any(columns.folds for _, columns in tables):
        return "patho-bench"
    if names & {"PATIENT", "FILENAME"}:
        return "stamp"
    if has_splits or {"case_id", "slide_id"} <= names:
        return "clam"
    return "excel"


def other_columns(table: SourceTable, columns: Columns) -> list[str]:
    """Return the columns without a meaning here, which are kept: targets and covariates."""
    return [
        name
        for name in table.columns
        if name not in columns.named and name not in INDEX_NAMES and not _is_index(name)
    ]


def _first(columns: Sequence[str], names: Sequence[str]) -> str | None:
    by_plain = {plain_column(name): name for name in reversed(columns)}
    return next((by_plain[name] for name in names if name in by_plain), None)


def _named(table: SourceTable, name: str) -> str | None:
    """Return a column that the user names; case, spaces, "-" and "_" do not matter."""
    if name in table.columns:
        return name
    return _first(table.columns, [plain_column(name)])


def _is_index(name: str) -> bool:
    return re.fullmatch(r"Unnamed: \d+", name) is not None


def require_column(tables: Sequence[SourceTable], name: str, option: str) -> None:
    """Check that some table has a column that the user names.

    Raises:
        CohortError: none has it.
    """
    if not any(_named(table, name) for table in tables):
        known = ", ".join(dict.fromkeys(each for table in tables for each in table.columns if each))
        raise CohortError(f"{option} {name}: no table has this column (found: {known}).")
