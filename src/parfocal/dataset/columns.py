"""Names of columns: spellings of one name, parts of folds, and tables of other tools."""

import re
from collections.abc import Iterable

FOLD_COLUMN = re.compile(r"fold(\d{1,4})")  # in a plain column name: the parts of one fold

# Columns of tables of slides and patients, by which the tool is found.
STAMP, CLAM, CLAM_SPLIT = {"PATIENT", "FILENAME"}, {"case_id", "slide_id"}, {"train", "val"}
OTHER = {"patient", "case", "slide", "filename", "file", "image", "imageid", "wsi", "slidename"}

# Columns that identify a slide, its files or its part of the split: nothing to learn from.
ADMINISTRATIVE = (
    *("slide_id", "path", "patient_id", "split", "fold"),
    *("tissue", "outlines", "outlines_offset"),
)


def is_administrative(column: str) -> bool:
    """Return whether a column identifies a slide, its files or its part of the split.

    >>> is_administrative("patient_id"), is_administrative("fold_0"), is_administrative("age")
    (True, True, False)
    """
    return column in ADMINISTRATIVE or bool(fold_columns([column]))


def fold_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns with the parts of one fold each, in the order of their numbers.

    >>> fold_columns(["slide_id", "fold_10", "fold_2", "fold"])
    ['fold_2', 'fold_10']
    """
    found = [name for name in columns if FOLD_COLUMN.fullmatch(plain_column(name))]
    return sorted(found, key=lambda name: int(plain_column(name).removeprefix("fold")))


def plain_column(name: str) -> str:
    """Return a column's name without what may be spelled in several ways."""
    return re.sub(r"[\s_-]", "", name.casefold())


def tool_of(header: Iterable[str]) -> str | None:
    """Return the tool whose table a header is probably of; None if it is no table of slides.

    >>> tool_of(["PATIENT", "isMSIH"]), tool_of(["case_id", "slide_id", "label"])
    ('STAMP', 'CLAM')
    """
    names = set(header)
    if names & STAMP:
        return "STAMP"
    if fold_columns(names) and "case_id" in names:
        return "Patho-Bench"
    if names >= CLAM or names >= CLAM_SPLIT:
        return "CLAM"
    return "another tool" if OTHER & set(map(plain_column, names)) else None
