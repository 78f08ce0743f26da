"""Tables of other tools, in the layouts that these tools write, become cohorts."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from parfocal.dataset import CohortError, fold_cohort, read_cohort, split_cohort
from parfocal.dataset.foreign import Converted, Options, convert_tables


def put(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column(path: Path, name: str) -> list[str]:
    return [row[name] for row in cells(path)]


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Converted]:
    def run(*paths: Path, **options: object) -> Converted:
        return convert_tables(paths, tmp_path / "cohort.csv", Options(**options))

    return run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "cohort.csv"


def stamp(folder: Path) -> tuple[Path, Path]:
    """Write the two tables of STAMP; the ids of the first have lost their zeros."""
    clini = (
        "PATIENT;isMSIH;AGE;OS_STATUS;os_months\n7;MSIH;60;1:DECEASED;12,5\n"
        "8;nonMSIH;61;0:LIVING;3,25\n9;MSIH;NA;0:LIVING;7\n10;NA;5;0:LIVING;7\n11;MSIH;5;;7\n"
    )
    slides = "PATIENT,FILENAME\n007,a.h5\n008,b.h5\n009,c.h5\n009,d.h5\n010,e.h5\n077,f.h5\n"
    return put(folder / "clini.csv", clini, "utf-8-sig"), put(folder / "slide.csv", slides)


def test_the_tables_of_stamp_are_joined_by_patient(tmp_path, convert, out):
    made = convert(*stamp(tmp_path), label="isMSIH")
    rows = cells(out)
    assert [row["slide_id"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["patient_id"] for row in rows] == ["007", "008", "009", "009"]
    assert [row["label"] for row in rows] == ["MSIH", "nonMSIH", "MSIH", "MSIH"]
    assert [row["AGE"] for row in rows] == ["60", "61", "", ""]
    assert [row["OS_STATUS"] for row in rows] == ["1", "0", "0", "0"]
    assert [row["os_months"] for row in rows] == ["12.5", "3.25", "7", "7"]
    assert "isMSIH" not in rows[0]
    assert made.notes[0] == "clini.csv, slide.csv: STAMP"
    assert {
        "renamed: PATIENT = patient_id, FILENAME = slide_id",
        "renamed: isMSIH = label",
        "kept: AGE, OS_STATUS, os_months",
        "dropped 1 slide of patients not in clini.csv: f",
        "dropped 1 slide without isMSIH: e",
        "1 patient of clini.csv without a slide: 11",
        "OS_STATUS in numbers: 1:DECEASED = 1, 0:LIVING = 0",
        "os_months with decimal points",
    } <= set(made.notes)
    assert any("but for the leading zeros: 7 = 007, 8 = 008" in note for note in made.notes)
    assert made.summary == "4 slides of 3 patients: MSIH 3, nonMSIH 1"
    assert len(read_cohort(out).slides) == 4


def test_without_a_label_the_targets_are_kept(tmp_path, convert, out):
    made = convert(*stamp(tmp_path))
    assert [*cells(out)[0]] == [
        *("slide_id", "path", "patient_id", "isMSIH", "AGE", "OS_STATUS", "os_months"),
    ]
    assert any(
        note.startswith("no label: several columns may be it (isMSIH") for note in made.notes
    )
    assert made.next_command == f"parfocal train {out} --task TASK --target COLUMN --out run"


def test_splits_of_stamp_keep_their_patients_apart(tmp_path, convert, out):
    folds = [
        {"train_patients": ["007", "008"], "test_patients": ["009"]},
        {"train_patients": ["009", "008"], "test_patients": ["007", "999"]},
    ]
    splits = put(tmp_path / "splits.json", json.dumps({"splits": folds}))
    made = convert(*stamp(tmp_path), splits, label="isMSIH")
    assert column(out, "fold_0") == ["train", "train", "test", "test"]
    assert column(out, "fold_1") == ["test", "train", "train", "train"]
    assert "1 names of the splits are not in the cohort: 999" in made.notes


CLAM = "case_id,slide_id,label\n" + "".join(
    f"patient_{n // 2},slide_{n},{'tumor' if n // 2 % 2 else 'normal'}\n" for n in range(16)
)
LISTS = (
    ",train,val,test\n0,slide_0,slide_4,slide_6\n1,slide_1,slide_5,slide_7\n2,slide_2,slide_8,\n"
    "3,slide_3,slide_9,\n4,slide_10,,\n5,slide_11,,\n"
)
YES_NO = ",train,val,test\n" + "".join(
    f"slide_{n},{n < 8},{8 <= n < 12},{n >= 12}\n" for n in range(16)
)


def test_splits_of_clam_are_used_as_they_are(tmp_path, convert, out):
    folder = tmp_path / "splits"
    put(folder / "splits_0.csv", LISTS)
    put(folder / "splits_0_bool.csv", YES_NO)  # the same split in CLAM; here the lists count
    put(folder / "splits_1_bool.csv", YES_NO)
    put(folder / "splits_0_descriptor.csv", ",train,val,test\nnormal,3,2,1\ntumor,3,2,1\n")
    made = convert(put(tmp_path / "dataset.csv", CLAM), folder)
    assert column(out, "fold_0") == [
        *["train"] * 4,
        *["val"] * 2,
        *["test"] * 2,
        *["val"] * 2,
        *["train"] * 2,
        *[""] * 4,
    ]
    assert column(out, "fold_1") == ["train"] * 8 + ["val"] * 4 + ["test"] * 4
    first, second = fold_cohort(read_cohort(out))
    assert [slide.slide_id for slide in first.test] == ["slide_6", "slide_7"]
    assert len(second.train) == 8
    assert made.notes[0] == "dataset.csv, 2 splits: CLAM"
    assert made.summary.endswith("2 folds")


def test_one_split_becomes_a_column_split(tmp_path, convert, out):
    splits = put(tmp_path / "splits_0.csv", LISTS)
    made = convert(put(tmp_path / "dataset.csv", CLAM), splits)
    assert len(cells(out)) == 12
    assert "dropped 4 slides that are in no split: slide_12, slide_13, slide_14 and 1 more" in (
        made.notes
    )
    assert made.summary.endswith("; test 2, train 6, val 4")
    assert len(split_cohort(read_cohort(out)).test) == 2


def test_a_patient_or_slide_in_two_parts_is_refused_unless_splits_are_left_out(
    tmp_path, convert, out
):
    table = put(tmp_path / "dataset.csv", CLAM)
    splits = put(tmp_path / "splits_0.csv", ",train,val,test\n0,slide_0,slide_3,slide_1\n")
    with pytest.raises(
        CohortError,
        match=r"splits_0\.csv: patient 'patient_0' is in both train \(slide_0\) and test \(slide_1",
    ):
        convert(table, splits)
    assert not out.exists()
    put(splits, ",train,val,test\n0,slide_0,slide_4,slide_0\n")
    with pytest.raises(CohortError, match=r"splits_0\.csv: 'slide_0' is in both train and test; "):
        convert(table, splits)
    put(splits, ",train,val,test\nslide_0,True,False,True\n")
    with pytest.raises(CohortError, match=r"splits_0\.csv row 2: 'slide_0' is in train and test"):
        convert(table, splits)
    convert(table, splits, splits=False)
    assert "split" not in cells(out)[0]


def test_splits_of_other_slides_are_refused(tmp_path, convert):
    splits = put(tmp_path / "splits_0.csv", ",train,val,test\n0,x1,x2,x3\n")
    with pytest.raises(CohortError, match="none of its names is a slide or patient of the table"):
        convert(put(tmp_path / "dataset.csv", CLAM), splits)
    with pytest.raises(CohortError, match="splits alone; give the table of slides, too"):
        convert(splits)


def patho_bench(folder: Path, config: str) -> Path:
    rows = "".join(
        f"C{n // 2}\tS{n}\t{n // 2 % 2}\t{n + 1}.5\t{n % 3 // 2}\t{'test' if n < 4 else 'train'}\t"
        f"{'test' if n >= 8 else 'train'}\n"
        for n in range(12)
    )
    put(
        folder / "k=all.tsv",
        "case_id\tslide_id\tBAP1_mutation\tOS_days\tOS_event\tfold_0\tfold_1\n" + rows,
    )
    put(folder / "config.yaml", config)
    return folder


def test_a_task_of_patho_bench_has_its_labels_and_folds(tmp_path, convert, out):
    config = (
        "task_col: BAP1_mutation\nsample_col: case_id\nlabel_dict:\n  0: wildtype\n  1: mutant\n"
    )
    made = convert(patho_bench(tmp_path / "task", config))
    assert column(out, "label") == ["wildtype", "wildtype", "mutant", "mutant"] * 3
    assert column(out, "fold_0") == ["test"] * 4 + ["train"] * 8
    assert made.notes[0] == "k=all.tsv, config.yaml: Patho-Bench"
    first, _ = fold_cohort(read_cohort(out))
    assert len(first.val) == 4  # drawn from train, as the table has none
    assert len(first.train) == 4
    convert(tmp_path / "task" / "k=all.tsv", folds=1)
    assert column(out, "split") == ["test"] * 4 + ["train"] * 8
    with pytest.raises(CohortError, match="--folds 3: the tables have 2 folds; use fewer"):
        convert(tmp_path / "task", folds=3)


def test_a_survival_task_of_patho_bench_keeps_time_and_event(tmp_path, convert, out):
    config = "task_col: BAP1_mutation\nextra_cols: [OS_event, OS_days]\ntask_type: survival\n"
    made = convert(patho_bench(tmp_path / "task", config))
    assert "label" not in cells(out)[0]
    assert column(out, "OS_days")[:2] == ["1.5", "2.5"]
    assert made.next_command == (
        f"parfocal train {out} --task survival --time OS_days --event OS_event --out run"
    )


def test_the_sheets_of_a_workbook_are_tables(tmp_path, convert, out, workbook):
    clini = [("PATIENT", "isMSIH", "seen"), ("1", "yes", "date:45000"), ("2.0", "no", "")]
    slides = [("PATIENT", "FILENAME"), ("001", "a.h5"), ("002", "b.h5")]
    table = workbook(tmp_path / "all.xlsx", "Clini", clini, slides)
    made = convert(table, label="isMSIH")
    assert made.notes[0] == "all.xlsx, sheet Clini, all.xlsx, sheet Other: STAMP"
    # Whole numbers and days as the spreadsheet shows them.
    assert cells(out) == [
        {"slide_id": "a", "path": "a", "label": "yes", "patient_id": "1", "seen": "2023-03-15"},
        {"slide_id": "b", "path": "b", "label": "no", "patient_id": "2", "seen": ""},
    ]


def test_one_sheet_of_a_workbook_may_be_named(tmp_path, convert, out, workbook):
    rows = [("Slide Name", "Patient", "Class"), ("1", "P", "yes"), ("2", "Q", "no")]
    table = workbook(tmp_path / "all.xlsx", "Slides", rows, [("remark",), ("none",)])
    made = convert(table)
    assert column(out, "slide_id") == ["1", "2"]
    assert made.notes[0].endswith("a table of slides")
    assert "dropped all.xlsx, sheet Other: no column of slides or patients" in made.notes
    assert not any("dropped" in note for note in convert(table, sheets=("Slides",)).notes)
    with pytest.raises(CohortError, match=r"all\.xlsx: no sheet 'X' \(found: Slides, Other\)"):
        convert(table, sheets=("X",))


def test_slides_are_matched_with_files_by_name(tmp_path, convert, out):
    table = "slide_id,patient_id,label\nA-1,P,x\nb,Q,y\nTCGA-AA-1,R,x\n7,S,y\nlost,T,x\n"
    for name in ("A-1.svs", "A-1.png", "deep/B.ome.tif", "TCGA-AA-1.8021A060.svs"):
        put(tmp_path / "slides" / name, "")
    put(tmp_path / "slides" / "7.svs", "")
    made = convert(put(tmp_path / "t.csv", table), slides=(tmp_path / "slides",))
    assert column(out, "path") == [
        *("slides/A-1.svs", "slides/deep/B.ome.tif"),
        *("slides/TCGA-AA-1.8021A060.svs", "slides/7.svs"),
    ]
    assert made.missing == ("lost",)
    assert "1 names of slides matched by their start: TCGA-AA-1 = TCGA-AA-1.8021A060" in made.notes
    put(tmp_path / "slides" / "again" / "A-1.tif", "")
    with pytest.raises(CohortError, match="A-1: 2 files may be this slide"):
        convert(tmp_path / "t.csv", slides=(tmp_path / "slides",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CohortError, match="neither slides nor features in this folder"):
        convert(tmp_path / "t.csv", slides=(tmp_path / "empty",))


def test_slides_with_features_only_are_named_by_their_id(tmp_path, convert, out):
    put(tmp_path / "features" / "a.h5", "")
    put(tmp_path / "features" / "b.pt", "")
    table = put(tmp_path / "t.csv", "FILENAME,PATIENT,label\na.h5,P,x\nb.h5,Q,y\nc.h5,R,x\n")
    made = convert(table, slides=(tmp_path / "features",))
    assert column(out, "path") == ["a", "b"]
    assert made.missing == ("c.h5",)
    assert any(note.startswith("2 slides have features only") for note in made.notes)
    made = convert(table)
    assert column(out, "path") == ["a", "b", "c"]
    assert any(note.startswith("3 paths are names from the tables") for note in made.notes)


def test_a_censoring_column_becomes_one_of_events(tmp_path, convert, out):
    """CLAM's relatives write 1 for a patient without an event."""
    table = "case_id,slide_id,label,survival_months,censorship\nP,a,x,3.5,1\nQ,b,y,9,0\n"
    made = convert(put(tmp_path / "t.csv", table))
    assert column(out, "event") == ["0", "1"]
    assert "censorship is now event: 1 where it was 0, 0 where it was 1" in made.notes


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"t.csv": "case_id,slide_id,label\nP,a,x\nP,a,y\n"},
            r"t\.csv row 3: slide 'a' is also in row 2, with label 'x' instead of 'y'; keep one",
        ),
        (
            {
                "clini.csv": "PATIENT,isMSIH\nP,yes\nP,no\n",
                "slide.csv": "PATIENT,FILENAME\nP,a.h5\n",
            },
            r"clini\.csv row 3: patient 'P' is also in row 2, with isMSIH 'yes' instead of 'no'",
        ),
        ({"clini.csv": "PATIENT,isMSIH\nP,yes\n"}, "a table of patients, but there is no table of"),
        ({"t.csv": "a,b\n1,2\n"}, "no table has a column of slides; name it with --slide COLUMN"),
        (
            {"t.csv": "slide_id,label\na,x\n", "u.csv": "slide_id,label\nb,x\n"},
            r"several tables of slides: t\.csv and u\.csv; convert one at a time",
        ),
        (
            {"clini.csv": "PATIENT,y\nP,yes\n", "slide.csv": "PATIENT,FILENAME\nQ,a.h5\n"},
            r"clini\.csv: none of the patients of the slides is in this table \(slides: Q; table",
        ),
        ({"t.csv": "case_id,slide_id,label\nP,a,\nQ,b,NA\n"}, "column label: no slide has a value"),
        ({"t.csv": "case_id,slide_id,label\nP,a,x\nQ,b,x\n"}, "every slide has the label 'x'"),
        (
            {
                "clini.csv": "PATIENT,y\n007,yes\n008,no\n",
                "slide.csv": "PATIENT,FILENAME\n7,a.h5\n007,b.h5\n8,c.h5\n",
            },
            r"patients '7' and '007' of the slides would both be '007' of the table of patients",
        ),
        (
            {"t.csv": "case_id,slide_id,label\nP,a\u200bb,x\n"},
            r"t\.csv row 2: slide_id .* contains a character that cannot be seen",
        ),
        ({"t.csv": ""}, r"t\.csv: the file is empty; give a table with a row for each"),
        ({"t.csv": "a,a\n1,2\n"}, r"t\.csv: column 'a' appears twice; keep one"),
        ({"splits.json": '{"splits": [{}]}'}, r"splits\.json: not the splits\.json of STAMP"),
        ({"config.yaml": "a: 1"}, "no table; give the table of slides, too"),
    ],
)
def test_tables_that_contradict_each_other_are_refused(tmp_path, convert, out, tables, message):
    put(out, "kept")
    paths = [put(tmp_path / "in" / name, text) for name, text in tables.items()]
    with pytest.raises(CohortError, match=message):
        convert(*paths)
    assert out.read_text() == "kept"


def test_another_layout_than_the_one_named_is_refused(tmp_path, convert):
    table = put(tmp_path / "t.csv", CLAM)
    with pytest.raises(CohortError, match=r"t\.csv: these look like CLAM, not STAMP \(columns: "):
        convert(table, layout="stamp")
    convert(table, layout="clam")
    convert(table, layout="excel")


def test_columns_may_be_named(tmp_path, convert, out):
    table = put(tmp_path / "t.csv", "case number,Präparat,Befund\nP,a,x\nQ,b,y\n")
    convert(table, patient="case_number", slide="Präparat", label="befund")
    assert cells(out)[0] == {"slide_id": "a", "path": "a", "label": "x", "patient_id": "P"}
    with pytest.raises(CohortError, match="--slide none: no table has this column"):
        convert(table, slide="none")


def test_slides_of_several_classes_of_a_patient_are_noted(tmp_path, convert):
    """As in CLAM's own example of subtypes."""
    table = "case_id,slide_id,label\nP,a,x\nP,b,y\nQ,c,x\n"
    made = convert(put(tmp_path / "t.csv", table))
    assert any(
        note.startswith("1 patient with slides of several classes (P (x, y))")
        for note in made.notes
    )


def test_columns_with_names_of_a_cohort_are_renamed(tmp_path, convert, out):
    table = put(tmp_path / "t.csv", "slide_id,label,split,mpp\na,x,1,0.25\nb,y,2,0.5\n")
    made = convert(table)
    assert column(out, "table_split") == ["1", "2"]
    assert column(out, "mpp") == ["0.25", "0.5"]
    assert "renamed: split = table_split" in made.notes


def test_a_list_of_slides_has_no_label(tmp_path, convert, out):
    """As TRIDENT reads it."""
    made = convert(put(tmp_path / "t.csv", "wsi,mpp_x\na.svs,0.25\nb.svs,0.5\n"))
    assert column(out, "slide_id") == ["a", "b"]
    assert column(out, "mpp") == ["0.25", "0.5"]
    assert "label" not in cells(out)[0]
    assert "renamed: mpp_x = mpp" in made.notes
    assert any(note.startswith("no label: no column; ") for note in made.notes)
