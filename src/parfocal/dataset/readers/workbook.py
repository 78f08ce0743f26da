"""Reads a sheet of an .xlsx workbook: zipped XML, of which a table of values needs little."""

import zipfile
from pathlib import Path
from xml.etree import ElementTree

from parfocal.dataset.readers.listing import Source

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def read_sheet(source: Source, path: Path, sheet: str) -> list[list[str]]:
    """Read the cells of a sheet as text, row by row; a blank cell is "".

    Raises:
        CohortError: it is no workbook, or has no such sheet.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            part = _part_of(packed, sheet)
            if part is None:
                raise source.refuse(path, f"no sheet {sheet!r}, so it is of another release")
            texts = _shared_texts(packed)
            rows = ElementTree.fromstring(packed.read(part)).iter(f"{MAIN}row")
            return [_row(row, texts) for row in rows]
    except FileNotFoundError:
        raise source.refuse(path, "no such label file") from None
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, ValueError) as error:
        raise source.refuse(path, f"not a whole .xlsx workbook ({error})") from None


def _part_of(packed: zipfile.ZipFile, sheet: str) -> str | None:
    """Give the file in the archive that holds a sheet."""
    workbook = ElementTree.fromstring(packed.read("xl/workbook.xml"))
    relations = ElementTree.fromstring(packed.read("xl/_rels/workbook.xml.rels"))
    targets = {relation.attrib["Id"]: relation.attrib["Target"] for relation in relations}
    for entry in workbook.iter(f"{MAIN}sheet"):
        if entry.attrib["name"] == sheet:
            target = targets[entry.attrib[RELATION]]
            return target.lstrip("/") if target.startswith("/") else f"xl/{target}"
    return None


def _shared_texts(packed: zipfile.ZipFile) -> list[str]:
    """Give the texts that cells refer to by number."""
    if "xl/sharedStrings.xml" not in packed.namelist():
        return []
    root = ElementTree.fromstring(packed.read("xl/sharedStrings.xml"))
    return [_text(item) for item in root.iter(f"{MAIN}si")]


def _text(item: ElementTree.Element) -> str:
    return "".join(part.text or "" for part in item.iter(f"{MAIN}t"))


def _row(row: ElementTree.Element, texts: list[str]) -> list[str]:
    cells: list[str] = []
    for cell in row.iter(f"{MAIN}c"):
        # Blank cells are left out, so a cell says where it stands: "C12".
        column = _column(cell.attrib["r"]) if "r" in cell.attrib else len(cells)
        cells += [""] * (column - len(cells)) + [_value(cell, texts)]
    return cells


def _column(reference: str) -> int:
    """Turn the letters of a cell's name into a number.

    >>> _column("A1"), _column("AB12")
    (0, 27)
    """
    number = 0
    for letter in reference.rstrip("0123456789"):
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1


def _value(cell: ElementTree.Element, texts: list[str]) -> str:
    if cell.attrib.get("t") == "inlineStr":
        return _text(cell).strip()
    value = cell.findtext(f"{MAIN}v", default="")
    return (texts[int(value)] if cell.attrib.get("t") == "s" else value).strip()
