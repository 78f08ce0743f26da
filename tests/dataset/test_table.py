import pytest

from parfocal.dataset import CohortError, read_cohort
from parfocal.dataset.table import TableError, read_cells
from parfocal.dataset.workbook import sheet_names

ROWS = [("a", "b c", "d"), (), ("1", "", "0.2497"), ("", "", "y"), ("0012", "x", "")]
HEADER = ("slide_id", "path", "label", "mpp")


def test_cells_of_a_workbook_are_text_with_the_row_numbers_of_the_spreadsheet(tmp_path, workbook):
    path = workbook(tmp_path / "a.xlsx", "Sheet", [(), *ROWS])
    expected = [(2, ["a", "b c", "d"]), (4, ["1", "", "0.2497"]), (5, ["", "", "y"])]
    assert read_cells(path)[:3] == expected
    assert read_cells(path, sheet="Sheet") == read_cells(path)


def test_a_missing_sheet_is_refused(tmp_path, workbook):
    path = workbook(tmp_path / "a.xlsx", "Sheet", ROWS)
    with pytest.raises(TableError, match=r"no sheet 'Table' \(found: Sheet, Other\)"):
        read_cells(path, sheet="Table")


SLIDES = [HEADER, ("1", "a.svs", "no"), ("2", "b.svs", ""), ("3", "c.svs", "yes")]


def test_merged_cells_have_one_value_each(tmp_path, workbook):
    path = workbook(tmp_path / "a.xlsx", "Slides", SLIDES, merged="C2:C3")
    assert [cells[2] for _, cells in read_cells(path)] == ["label", "no", "no", "yes"]


def test_hidden_rows_are_read_with_a_warning(tmp_path, workbook, caplog):
    path = workbook(tmp_path / "a.xlsx", "Slides", SLIDES, hidden=(3, 4))
    assert len(read_cells(path)) == 4
    assert "a.xlsx, sheet Slides: 2 rows are hidden, such as row 3, but still" in caplog.text


def test_the_first_sheet_that_is_not_hidden_is_read(tmp_path, workbook):
    path = workbook(tmp_path / "a.xlsx", "Old", [("x",)], SLIDES, state="hidden")
    assert read_cells(path)[1] == (2, ["1", "a.svs", "no"])
    assert read_cells(path, sheet="Old") == [(1, ["x"])]
    assert sheet_names(path) == ["Other"]
    assert sheet_names(path, hidden=True) == ["Old", "Other"]


def test_another_sheet_of_the_same_columns_has_a_warning(tmp_path, workbook, caplog):
    read_cells(workbook(tmp_path / "a.xlsx", "Train", SLIDES, SLIDES[:2]))
    assert "a.xlsx: sheet Train is read, but not Other, with the same columns" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("a.xlsx", "", "Only the first sheet is read, not Other; put the table first."),
        ("a.csv", '"slide_id,path,label"\n"1,a,no"\n', "The first row is a single cell: separate"),
        ("a.csv", "slide_id path label\n1 a no\n", "The first row is a single cell: separate"),
    ],
)
def test_the_error_about_columns_says_where_the_header_may_be(tmp_path, workbook, name, text, hint):
    (tmp_path / name).write_text(text)
    path = (
        workbook(tmp_path / name, "Read me", [("Slides",)], SLIDES) if not text else tmp_path / name
    )
    with pytest.raises(CohortError, match=rf"no columns slide_id, path, label.*{hint}"):
        read_cohort(path)


def test_a_cohort_may_be_a_workbook(tmp_path, workbook):
    rows = [HEADER, ("s1", "a.svs", "no", "0.25"), (), ("2", "b.svs", "yes", "")]
    cohort = read_cohort(workbook(tmp_path / "cohort.XLSX", "Slides", rows))
    assert [(slide.slide_id, slide.row, slide.mpp) for slide in cohort.slides] == [
        ("s1", 2, 0.25),
        ("2", 4, None),
    ]
    assert cohort.slides[0].path == tmp_path / "a.svs"
    assert cohort.labels == ("no", "yes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'a,b\n1,"x\n2,y\n', "at line 3: unexpected end of data\\); look for a double quote that"),
        (b"a,b\n1,caf\xe9\n", "line 2 is not in UTF-8 \\(byte 0xe9\\); save it as CSV UTF-8"),
        ("a,b\n".encode("utf-16-le"), "not a text file, or UTF-16 without a byte-order mark"),
        (b"PK\x03\x04...", "an Excel workbook whose name does not end in .xlsx; save it as .xlsx"),
        (b"\xd0\xcf\x11\xe0\xa1", "an Excel workbook whose name does not end in .xlsx"),
    ],
)
def test_a_csv_file_that_cannot_be_read_right_is_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_cells(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "text", ["sep=;\na,1;b,2\nc;d\n", "a,1;b,2;;\nc;d;;\n;\n", '"a,1";"b,2"\rc;d']
)
def test_the_separator_is_that_of_the_first_line(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, newline="")
    assert [cells for _, cells in read_cells(tmp_path / "a.csv")] == [["a,1", "b,2"], ["c", "d"]]


def test_a_long_cell_and_doubled_quotes_are_read(tmp_path):
    (tmp_path / "a.csv").write_text(f'a,"say ""x"""\n{"y" * 200_000},b\n')
    assert read_cells(tmp_path / "a.csv") == [(1, ["a", 'say "x"']), (2, ["y" * 200_000, "b"])]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"cohort\.xlsx: the file is empty; it needs slide_id, path, label"),
        ([HEADER], r"cohort\.xlsx: no slides below the header"),
        ([("slide_id", "file")], r"no columns path, label \(found: slide_id, file\)"),
        ([HEADER, (), ("1", "a", "")], r"cohort\.xlsx row 3: label is empty"),
        ([HEADER, ("1", "a", "x"), ("1", "b", "y")], r"row 3: slide_id '1' is also in row 2"),
        ([HEADER, ("1", "a", "x", "40x")], r"row 2: mpp '40x' is not a number of microns"),
        ([HEADER, ("1", "a", "x", "", "z")], r"row 2: 5 cells under 4 columns; name every column"),
    ],
)
def test_a_workbook_is_checked_like_a_csv_file(tmp_path, workbook, rows, message):
    with pytest.raises(CohortError, match=message):
        read_cohort(workbook(tmp_path / "cohort.xlsx", "Slides", rows))
