"""Read the rows of a cohort by column, and check what does not depend on labels."""

import logging
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from parfocal.dataset.columns import FOLD_COLUMN, fold_columns, plain_column, tool_of
from parfocal.dataset.errors import CohortError
from parfocal.dataset.spelling import hidden_character, is_missing, plain_form
from parfocal.dataset.table import WORKBOOKS, TableError, read_cells
from parfocal.dataset.workbook import sheet_names
from parfocal.printable import counted
from parfocal.slide.sources.url import RemoteAccess, SlidePath, is_url, parse_slide_path

IDENTIFYING = ("slide_id", "path")
REQUIRED = (*IDENTIFYING, "label")
OPTIONAL = (
    *("patient_id", "mpp", "split", "fold", "stratum", "tissue", "outlines", "outlines_offset"),
)

MAX_ID_BYTES = 200  # a file name has at most 255, and extensions are added
WINDOWS = os.name == "nt"
DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d) *", re.IGNORECASE)  # of Windows
WINDOWS_DRIVE = re.compile(r"(^|/)[A-Za-z]:[\\/]")
SIMILAR = 0.8  # of two names; from 0 to 1
MPP_LIKE = r"mpp|(microns?|um|µm|μm)(per|/)?(pixel|px)|pixelsize"  # in a plain column name
MAX_SHOWN = 3  # missing files listed in a message

logger = logging.getLogger(__name__)

NumberedRow = tuple[int, dict[str, str]]  # row number in the file, and the cells by column


def read_rows(path: Path, required: Sequence[str]) -> list[NumberedRow]:
    """Read the rows of a table, one slide each, with ids and paths filled.

    Args:
        path: the table.
        required: columns that it must have.

    Raises:
        CohortError: the table cannot be read, or a row has no id, or the id of another row.
    """
    rows = _rows_by_column(path, required)
    if not rows:
        raise CohortError(f"{path.name}: no slides below the header; add a row for each.")
    for number, row in rows:
        _check_identity(f"{path.name} row {number}", row)
    _refuse_equal_ids(path, rows)
    return rows


def find_file(folder: Path, text: str) -> Path:
    r"""Return the path of a file that a table names.

    Backslashes, as Windows writes them, separate folders where the file exists so.

    Args:
        folder: folder where relative paths start.
        text: the path as written; `~` is the home folder.
    """
    path = folder / (Path(text).expanduser() if text.startswith("~/") else text)
    if "\\" in text and os.sep == "/" and not file_exists(path):
        with_slashes = folder / text.replace("\\", "/")
        return with_slashes if file_exists(with_slashes) else path
    return path


def find_slide(folder: Path, text: str, access: RemoteAccess | None) -> SlidePath:
    """Return the path or the URL of a slide that a table names.

    Args:
        folder: folder where relative paths start.
        text: the path or URL as written.
        access: how a URL is read; None for the defaults.

    Raises:
        UrlError: the URL cannot be used.
    """
    return parse_slide_path(text, access) if is_url(text) else find_file(folder, text)


def file_exists(path: Path) -> bool:
    """Return whether a file exists; False for a path that cannot be one."""
    return os.path.exists(path)  # noqa: PTH110  # Path.exists raises for a name that is too long


def missing_files_error(
    source: Path, missing: Sequence[tuple[int, Path]], kind: str
) -> CohortError:
    """Return the error for files that do not exist; it lists a few of them.

    Args:
        source: the table.
        missing: row number and path of each missing file.
        kind: what a file is, as "slide file".
    """
    listed = [f"{path} (row {row})" for row, path in missing[:MAX_SHOWN]]
    if len(missing) > MAX_SHOWN:
        listed.append(f"and {len(missing) - MAX_SHOWN} more")
    return CohortError(
        f"{source.name}: {counted(len(missing), kind)} missing: {', '.join(listed)}. "
        f"{_missing_hint(path for _, path in missing)}"
    )


def _missing_hint(missing: Iterable[Path]) -> str:
    """Return what may be wrong with the paths of missing files."""
    if os.sep == "/":
        for path in missing:
            if WINDOWS_DRIVE.search(str(path)):
                return (
                    "These are paths of a Windows computer, with the letter of a drive; write them "
                    "as they are on this computer."
                )
            if "\\" in str(path):
                return (
                    "Backslashes, as Windows writes them, were read as slashes, but there are no "
                    "such files either; relative paths start at the folder of the table."
                )
    return "Relative paths start at the folder of the table."


def _rows_by_column(path: Path, required: Sequence[str]) -> list[NumberedRow]:
    try:
        lines = read_cells(path)
    except TableError as error:
        if not path.is_file():
            raise CohortError(f"{path}: {error}; give a cohort, a .csv or .xlsx file.") from None
        raise CohortError(f"{path.name}: {error}.") from None
    if not lines:
        raise CohortError(f"{path.name}: the file is empty; it needs {', '.join(required)}.")
    header = [_column(name) for name in lines[0][1]]
    _check_header(path, header, required)
    _refuse_ignored(path, header)
    for number, cells in lines[1:]:
        if len(cells) > len(header):
            raise CohortError(
                f"{path.name} row {number}: {len(cells)} cells under {len(header)} columns; name "
                "every column, and in a CSV file put a value with a separator in double quotes."
            )
    padding = [""] * len(header)
    return [
        (number, dict(zip(header, cells + padding, strict=False))) for number, cells in lines[1:]
    ]


def _column(name: str) -> str:
    """Return the name of a known column however it is spelled: `Slide ID` is slide_id."""
    plain = plain_column(name)
    fold = FOLD_COLUMN.fullmatch(plain)
    return KNOWN.get(plain, name) if fold is None else f"fold_{int(fold[1])}"


KNOWN = {plain_column(name): name for name in (*REQUIRED, *OPTIONAL)}


def _refuse_ignored(path: Path, header: list[str]) -> None:
    """Refuse or log columns that are ignored but seem to be meant for known ones.

    Ignoring microns per pixel would change every magnification, so it is an error.
    """
    unused = {plain: name for plain, name in KNOWN.items() if name not in header}
    similar: list[str] = []
    for name in header:
        plain = plain_column(name)
        if name in KNOWN.values() or not plain or FOLD_COLUMN.fullmatch(plain):
            continue
        if "mpp" in unused and re.search(MPP_LIKE, plain):
            raise CohortError(
                f"{path.name}: column {name!r} is not read; microns per pixel belong in a column "
                "mpp. Rename this one, or remove it to use the values in the files."
            )
        nearest = get_close_matches(plain, unused, 1, cutoff=SIMILAR)
        similar += [f"{name!r} (did you mean {unused[each]}?)" for each in nearest]
    if similar:
        logger.warning("%s: ignored columns: %s", path.name, ", ".join(similar))


def columns_text(names: Sequence[str]) -> str:
    """Return columns as text.

    >>> columns_text(["age"]), columns_text(["age", "sex"])
    ('column age', 'columns age, sex')
    """
    return f"column{'s' * (len(names) > 1)} {', '.join(names)}"


def _check_header(path: Path, header: list[str], required: Sequence[str]) -> None:
    missing = [column for column in required if column not in header]
    if missing:
        raise CohortError(
            f"{path.name}: no {columns_text(missing)} (found: {_shorten(', '.join(header))}); "
            f"it needs {', '.join(required)} and may have {', '.join(OPTIONAL)}."
            f"{_header_hint(path, header)}{_conversion(path, header)}"
        )
    repeated = [column for column, times in Counter(header).items() if times > 1 and column]
    if repeated:
        raise CohortError(f"{path.name}: column {repeated[0]!r} appears twice; keep one.")
    parts = [name for name in ("split", "fold") if name in header] + fold_columns(header)[:1]
    if len(parts) > 1:
        raise CohortError(f"{path.name}: it has both {parts[0]} and {parts[1]}; keep one of them.")


def _header_hint(path: Path, header: Sequence[str]) -> str:
    """Return why the columns of a table may not be found, as a sentence; empty if unknown."""
    if path.suffix.lower() in WORKBOOKS:
        names = sheet_names(path)
        others = f" Only the first sheet is read, not {', '.join(names[1:])}; put the table first."
        return others if len(names) > 1 else ""
    if len(header) == 1 and re.search(r"[,;|\s]", header[0]):
        return (
            " The first row is a single cell: separate columns by commas, and do not put a whole "
            "row in quotes."
        )
    return ""


def _conversion(path: Path, header: Sequence[str]) -> str:
    """Return how to convert a table of another tool, as a sentence; empty if it is none."""
    tool = tool_of(header)
    if tool is None:
        return ""
    other = {frozenset({"PATIENT"}): " SLIDES.csv", frozenset({"train", "val"}): " DATASET.csv"}
    names = set(header)
    also = next((table for columns, table in other.items() if columns <= names), "")
    if "FILENAME" in names:
        also = " CLINI.csv" if len(names) == 2 else ""
    out = "cohort.csv" if path.name != "cohort.csv" else "converted.csv"
    name = "" if tool == "another tool" else f" of {tool}"
    return (
        f" To convert a table{name}: parfocal cohort convert {shlex.quote(str(path))}{also} "
        f"--out {out}"
    )


def _shorten(text: str, length: int = 200) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _check_identity(where: str, row: dict[str, str]) -> None:
    for column in IDENTIFYING:
        if is_missing(row[column]):
            found = f" ({row[column]!r})" if row[column] else ""
            raise CohortError(f"{where}: {column} is empty{found}; every slide needs one.")
    for column in ("slide_id", "path", "label", "patient_id"):
        hidden = hidden_character(row.get(column, ""))
        if hidden is not None:
            raise CohortError(
                f"{where}: {column} {row[column]!r} contains a character that cannot be seen "
                f"({hidden}); remove it."
            )
    slide_id = row["slide_id"]
    problem = unusable_name(slide_id)
    if problem is not None:
        raise CohortError(
            f"{where}: slide_id {_shorten(slide_id)!r} {problem}, and files are named after it; "
            "choose another."
        )


def unusable_name(text: str) -> str | None:
    """Return why files cannot be named after a slide or patient; None if they can."""
    if "/" in text or "\\" in text:
        return "contains a slash"
    if text.startswith("."):
        return "begins with a dot"
    if len(text.encode()) > MAX_ID_BYTES:
        return f"is longer than {MAX_ID_BYTES} bytes"
    if WINDOWS and (re.search(r'[<>:"|?*]', text) or DEVICE.fullmatch(text.partition(".")[0])):
        return "is no name of a file on Windows"
    return None


def _refuse_equal_ids(path: Path, rows: list[NumberedRow]) -> None:
    first: dict[str, tuple[int, str]] = {}
    for number, row in rows:
        slide_id = row["slide_id"]
        # Not the plain form of a number: `7` and `007` are two ids.
        key = slide_id if slide_id.isdecimal() else plain_form(slide_id)
        other_number, other = first.setdefault(key, (number, slide_id))
        if other_number == number:
            continue
        if other == slide_id:
            raise CohortError(
                f"{path.name} row {number}: slide_id {slide_id!r} is also in row {other_number}; "
                "give each slide its own id."
            )
        raise CohortError(
            f"{path.name} row {number}: slide_id {slide_id!r} is {other!r} of row {other_number} "
            "but for case, spaces or characters that look the same; give each slide its own id."
        )
