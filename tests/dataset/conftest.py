import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest


@pytest.fixture
def workbook() -> Callable[..., Path]:
    """Write an .xlsx workbook as spreadsheets do: shared strings, numbers, no blank cells.

    The sheet is the first one, of a `state`; a second one is called Other. Rows of some numbers
    are hidden, and a range of cells is merged. A text as `date:45000` is the day of
    this number, from 1899-12-30 on.
    """

    def write(
        path: Path,
        sheet: str,
        rows: Iterable[Sequence[str]],
        other: Iterable[Sequence[str]] = (),
        *,
        hidden: Sequence[int] = (),
        merged: str = "",
        state: str = "visible",
    ) -> Path:
        texts: list[str] = []

        def cell(row: int, column: int, value: str) -> str:
            place = f"{chr(ord('A') + column)}{row}"
            if value.replace(".", "", 1).isdecimal():
                return f'<c r="{place}"><v>{value}</v></c>'
            if value.startswith("date:"):
                return f'<c r="{place}" s="1"><v>{value.removeprefix("date:")}</v></c>'
            if value not in texts:
                texts.append(value)
            return f'<c r="{place}" t="s"><v>{texts.index(value)}</v></c>'

        def lines(rows: Iterable[Sequence[str]]) -> str:
            return "".join(
                f'<row r="{number}" hidden="{int(number in hidden)}">'
                + "".join(cell(number, column, value) for column, value in enumerate(row) if value)
                + "</row>"
                for number, row in enumerate(rows, start=1)
            )

        main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
        office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
        package = "http://schemas.openxmlformats.org/package/2006/relationships"
        with zipfile.ZipFile(path, "w") as archive:
            types = "http://schemas.openxmlformats.org/package/2006/content-types"
            archive.writestr("[Content_Types].xml", f'<Types xmlns="{types}"/>')
            archive.writestr(
                "_rels/.rels",
                f'<Relationships xmlns="{package}"><Relationship Id="rId1" Type="{office}/'
                'officeDocument" Target="xl/workbook.xml"/></Relationships>',
            )
            archive.writestr(
                "xl/workbook.xml",
                f'<workbook {main} xmlns:r="{office}"><sheets><sheet name="{sheet}" sheetId="1" '
                f'state="{state}" r:id="rId1"/><sheet name="Other" sheetId="2" '
                'r:id="rId2"/></sheets>'
                "</workbook>",
            )
            archive.writestr(
                "xl/_rels/workbook.xml.rels",
                f'<Relationships xmlns="{package}">'
                f'<Relationship Id="rId1" Type="{office}/worksheet" '
                'Target="worksheets/sheet1.xml"/>'
                f'<Relationship Id="rId2" Type="{office}/worksheet" '
                'Target="worksheets/sheet2.xml"/>'
                f'<Relationship Id="rId3" Type="{office}/sharedStrings" '
                'Target="sharedStrings.xml"/>'
                f'<Relationship Id="rId4" Type="{office}/styles" Target="styles.xml"/>'
                "</Relationships>",
            )
            archive.writestr(
                "xl/styles.xml",
                f'<styleSheet {main}><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14"/>'
                "</cellXfs></styleSheet>",
            )
            for number, content in (("1", lines(rows)), ("2", lines(other))):
                archive.writestr(
                    f"xl/worksheets/sheet{number}.xml",
                    f"<worksheet {main}><sheetData>{content}</sheetData>"
                    f'<mergeCells><mergeCell ref="{merged or "A1"}"/></mergeCells></worksheet>',
                )
            shared = "".join(f"<si><t>{text}</t></si>" for text in texts)
            archive.writestr("xl/sharedStrings.xml", f"<sst {main}>{shared}</sst>")
        return path

    return write
