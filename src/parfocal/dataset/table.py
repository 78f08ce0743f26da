"""Read the cells of a CSV file or of an .xlsx workbook as text."""

import csv
from datetime import date
from pathlib import Path

import python_calamine

TableRow = tuple[int, list[str]]  # row number as a spreadsheet shows it, and the cells


class TableError(Exception):
    """A table that cannot be read; the message says why and what to do, but not which file."""


def read_cells(path: Path, *, sheet: str | None = None) -> list[TableRow]:
    """Read the rows of a table that are not blank, with spaces around cells removed.

    Args:
        path: a UTF-8 CSV file with commas, or an .xlsx workbook.
        sheet: name of the sheet of a workbook; None for the first one.

    Raises:
        TableError: the file does not exist, is not such a table, or has no such sheet.
    """
    if not path.is_file():
        raise TableError("a folder" if path.is_dir() else "no such file")
    read = _read_workbook(path, sheet) if path.suffix.lower() == ".xlsx" else _read_csv(path)
    rows = [(number, [cell.strip() for cell in cells]) for number, cells in read]
    return [(number, cells) for number, cells in rows if any(cells)]


def _read_csv(path: Path) -> list[TableRow]:
    try:
        # utf-8-sig: spreadsheets write a byte-order mark that would join the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            return [(reader.line_num, cells) for cells in reader]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise TableError(f"not a CSV file ({error}); save it as UTF-8 CSV") from None


def _read_workbook(path: Path, name: str | None) -> list[TableRow]:
    try:
        workbook = python_calamine.CalamineWorkbook.from_path(path)
        if name is not None and name not in workbook.sheet_names:
            raise TableError(f"no sheet {name!r} (found: {', '.join(workbook.sheet_names)})")
        sheet = workbook.get_sheet_by_name(name or workbook.sheet_names[0])
        # Without the empty area, row numbers would not be those of the spreadsheet.
        rows = sheet.to_python(skip_empty_area=False)
    except (python_calamine.CalamineError, OSError) as error:
        raise TableError(
            f"not a complete .xlsx workbook ({error}); save it again as .xlsx"
        ) from None
    return [
        (number, _without_trailing_blanks([_text(value) for value in cells]))
        for number, cells in enumerate(rows, start=1)
    ]


def _text(value: object) -> str:
    """Return the text of a cell; a spreadsheet stores whole numbers as 3.0."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, date) else str(value)


def _without_trailing_blanks(cells: list[str]) -> list[str]:
    """Remove blank cells at the end, which pad a row to the width of the sheet."""
    filled = [position for position, cell in enumerate(cells) if cell.strip()]
    return cells[: filled[-1] + 1] if filled else []
