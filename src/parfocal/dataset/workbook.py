"""Read the cells of a sheet of an Excel workbook as text."""

import logging
import zipfile
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import python_calamine

from parfocal.dataset.errors import TableError
from parfocal.printable import counted

logger = logging.getLogger(__name__)


def sheet_names(path: Path, *, hidden: bool = False) -> list[str]:
    """Return the names of the sheets of a workbook.

    Args:
        path: the workbook.
        hidden: whether to return hidden sheets, too; if False, they are returned only if there are
            no others.

    Raises:
        TableError: the file does not exist or is no workbook.
    """
    if not path.is_file():
        raise TableError("a folder" if path.is_dir() else "no such file")
    workbook = _open(path)
    return workbook.sheet_names if hidden else _visible(workbook)


def read_sheet(path: Path, name: str | None) -> list[list[str]]:
    """Return the rows of a sheet as a spreadsheet shows them, from the first row on.

    Merged cells all have the same value. Hidden rows are read, with a warning.

    Args:
        path: the workbook.
        name: name of the sheet; None for the first one that is not hidden.

    Raises:
        TableError: the file is no workbook, or has no such sheet.
    """
    workbook = _open(path)
    names = _visible(workbook)
    if name is not None and name not in workbook.sheet_names:
        raise TableError(f"no sheet {name!r} (found: {', '.join(workbook.sheet_names)})")
    chosen = name or names[0]
    try:
        sheet = workbook.get_sheet_by_name(chosen)
        # Without the empty area, row numbers would not be those of the spreadsheet.
        rows = [[_text(value) for value in row] for row in sheet.to_python(skip_empty_area=False)]
        merged = sheet.merged_cell_ranges or []
    except (python_calamine.CalamineError, OSError) as error:
        raise _not_a_workbook(error) from None
    for (top, left), (bottom, right) in merged:
        for row in rows[top : bottom + 1]:
            row[left : right + 1] = [rows[top][left]] * len(row[left : right + 1])
    if name is None:
        _log_other_sheets(path, workbook, names, rows)
    _warn_of_hidden_rows(path, chosen, rows)
    return rows


def _open(path: Path) -> python_calamine.CalamineWorkbook:
    try:
        return python_calamine.CalamineWorkbook.from_path(path)
    except (python_calamine.CalamineError, OSError) as error:
        raise _not_a_workbook(error) from None


def _visible(workbook: python_calamine.CalamineWorkbook) -> list[str]:
    """Return the names of the visible sheets; of all sheets if none is visible."""
    names = [
        sheet.name
        for sheet in workbook.sheets_metadata
        if sheet.visible == python_calamine.SheetVisibleEnum.Visible
        and sheet.typ == python_calamine.SheetTypeEnum.WorkSheet
    ]
    return names or workbook.sheet_names


def _log_other_sheets(
    path: Path, workbook: python_calamine.CalamineWorkbook, names: list[str], rows: list[list[str]]
) -> None:
    """Warn of sheets with the same columns as the one that is read."""
    header = next(iter(rows), [])
    others = [
        name
        for name in names[1:]
        for row in workbook.get_sheet_by_name(name).to_python(skip_empty_area=False, nrows=1)
        if header and [_text(value) for value in row] == header
    ]
    if others:
        logger.warning(
            "%s: sheet %s is read, but not %s, with the same columns; put all slides in one sheet",
            *(path.name, names[0], ", ".join(others)),
        )


def _warn_of_hidden_rows(path: Path, name: str, rows: list[list[str]]) -> None:
    hidden = [
        number
        for number in _hidden_rows(path, name)
        if any(cell for row in rows[number - 1 : number] for cell in row)
    ]
    if hidden:
        logger.warning(
            "%s, sheet %s: %s hidden, such as row %d, but still read; delete rows to omit them",
            *(path.name, name, counted(len(hidden), "row is", "rows are"), hidden[0]),
        )


def _hidden_rows(path: Path, name: str) -> list[int]:
    """Return the numbers of the hidden rows of a sheet, which calamine does not report."""
    try:
        with zipfile.ZipFile(path) as archive:
            book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
            (key,) = (
                value
                for sheet in book.findall(".//{*}sheet")
                if sheet.get("name") == name
                for attribute, value in sheet.items()
                if attribute.endswith("}id")
            )
            links = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
            (target,) = (link.get("Target", "") for link in links if link.get("Id") == key)
            part = target.removeprefix("/xl/")
            with archive.open(f"xl/{part}") as content:
                return [
                    int(element.get("r", "0"))
                    for _, element in ElementTree.iterparse(content)
                    if element.tag.endswith("}row") and element.get("hidden") in ("1", "true")
                ]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, ElementTree.ParseError):
        return []


def _not_a_workbook(error: Exception) -> TableError:
    return TableError(f"not a complete .xlsx workbook ({error}); save it again as .xlsx")


def _text(value: object) -> str:
    """Return the text of a cell; a spreadsheet stores whole numbers as 3.0."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, date) else str(value)
