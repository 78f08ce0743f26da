import zipfile

import pytest

from parfocal.dataset import CohortError
from parfocal.dataset.readers.listing import Source
from parfocal.dataset.readers.workbook import read_sheet

SOURCE = Source("SET", "https://example.org", "CC0", "small")
ROWS = [("a", "b c", "d"), ("1", "", "x"), ("", "", "y")]


def test_cells_stand_in_their_columns(tmp_path, workbook):
    path = workbook(tmp_path / "a.xlsx", "Sheet", ROWS)
    assert read_sheet(SOURCE, path, "Sheet") == [["a", "b c", "d"], ["1", "", "x"], ["", "", "y"]]


def test_texts_may_stand_in_the_sheet_itself(tmp_path, workbook):
    path = workbook(tmp_path / "a.xlsx", "Sheet", [("1",)])
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    cell = '<c t="inlineStr"><is><r><t>one </t></r><r><t>two</t></r></is></c><c><v>2.5</v></c>'
    with zipfile.ZipFile(path) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    del parts["xl/sharedStrings.xml"]
    parts["xl/worksheets/sheet2.xml"] = f"<worksheet {main}><row>{cell}</row></worksheet>".encode()
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    assert read_sheet(SOURCE, path, "Sheet") == [["one two", "2.5"]]


def test_a_sheet_that_is_not_there_is_refused(tmp_path, workbook):
    path = workbook(tmp_path / "a.xlsx", "Sheet", ROWS)
    with pytest.raises(CohortError, match=r"a\.xlsx: no sheet 'Table'.* SET is at https://exa"):
        read_sheet(SOURCE, path, "Table")
