"""Read the cells of a CSV file or of an Excel workbook as text."""

import codecs
import csv
import io
import re
from pathlib import Path

from parfocal.dataset.errors import TableError
from parfocal.dataset.workbook import read_sheet

__all__ = ["TableError", "TableRow", "read_cells"]

TableRow = tuple[int, list[str]]  # row number as a spreadsheet shows it, and the cells

WORKBOOKS = (".xlsx", ".xlsm")
WORKBOOK_STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # of .xlsx and of .xls files
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like that of UTF-16
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r'^"?sep=(.)"?\r?\n', re.IGNORECASE)  # first line, for spreadsheets
QUOTED = re.compile(r'"[^"]*"')
MAX_HEADER = 100_000  # characters
MAX_CELL = 10_000_000  # characters; csv refuses cells of more than 131,072 otherwise


def read_cells(path: Path, *, sheet: str | None = None) -> list[TableRow]:
    """Read the rows of a table that are not blank, without spaces around cells or blanks at ends.

    Args:
        path: a CSV file in UTF-8 or UTF-16 whose columns are separated by commas, semicolons, tabs
            or vertical bars, or an .xlsx workbook.
        sheet: name of the sheet of a workbook; None for the first one that is not hidden.

    Raises:
        TableError: the file does not exist, is not such a table, or has no such sheet.
    """
    if not path.is_file():
        raise TableError("a folder" if path.is_dir() else "no such file")
    is_workbook = path.suffix.lower() in WORKBOOKS
    read = list(enumerate(read_sheet(path, sheet), 1)) if is_workbook else _read_csv(path)
    rows = ((number, [cell.strip() for cell in cells]) for number, cells in read)
    return [(number, _without_trailing_blanks(cells)) for number, cells in rows if any(cells)]


def _read_csv(path: Path) -> list[TableRow]:
    text = _decode(path)
    skipped = SEPARATOR_LINE.match(text)
    separator = skipped[1] if skipped else _find_separator(text)
    lines = io.StringIO(text[skipped.end() :] if skipped else text, newline="")
    previous_limit = csv.field_size_limit(MAX_CELL)
    # Without `strict`, a quote that is never closed joins all following rows into one cell.
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    offset = 1 if skipped else 0
    try:
        return [(reader.line_num + offset, cells) for cells in reader]
    except csv.Error as error:
        where = f"at line {reader.line_num + offset}: {error}"
        raise TableError(
            f"not a complete CSV file ({where}); look for a double quote that is not closed, or "
            "write it twice inside a cell"
        ) from None
    finally:
        csv.field_size_limit(previous_limit)


def _decode(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TableError(f"cannot be read ({error.strerror})") from None
    if content.startswith(WORKBOOK_STARTS):
        raise TableError(
            "an Excel workbook whose name does not end in .xlsx; save it as .xlsx, or as CSV UTF-8"
        )
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TableError(
            f"line {line} is not in UTF-8 (byte 0x{content[error.start]:02x}); save it as CSV "
            "UTF-8, as .xlsx, or as Unicode text"
        ) from None
    if "\0" in text:
        raise TableError("not a text file, or UTF-16 without a byte-order mark; save it as UTF-8")
    return text


def _find_separator(text: str) -> str:
    """Return the separator that occurs most often in the first line that is not blank."""
    lines = QUOTED.sub("", text[:MAX_HEADER]).splitlines()
    first = next((line for line in lines if line.strip(" ,;|\t")), "")
    return max(SEPARATORS, key=(first or "".join(lines[:1])).count)


def _without_trailing_blanks(cells: list[str]) -> list[str]:
    """Remove blank cells at the end, which pad a row to the width of the sheet."""
    last = len(cells)
    while last and not cells[last - 1]:
        last -= 1
    return cells[:last]
