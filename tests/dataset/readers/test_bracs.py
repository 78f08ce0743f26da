import re

import pytest

from parfocal.dataset import CohortError, read_cohort, split_cohort
from parfocal.dataset.readers import bracs as module
from parfocal.dataset.readers import make_cohort

HEADER = ("WSI Filename", "Patient Id", "RoI ", "WSI label", "Set")
SLIDES = [
    ("BRACS_1", "10", "", "N", "Training"),
    ("BRACS_2", "11", "3", "UDH", "Training"),
    ("BRACS_3", "12", "", "FEA", "Training"),
    ("BRACS_4", "13", "1", "IC", "Training"),
    ("BRACS_5", "67", "", "PB", "Training"),
    ("BRACS_6", "67", "", "N", "Validation"),
    ("BRACS_7", "14", "", "ADH", "Validation"),
    ("BRACS_8", "15", "", "DCIS", "Testing"),
]
HOMES = {
    "BRACS_1": "train/Group_BT/Type_N",
    "BRACS_2": "train/Group_BT/Type_UDH",
    "BRACS_3": "train/Group_AT/Type_FEA",
    "BRACS_4": "train/Group_MT/Type_IC",
    "BRACS_5": "train/Group_BT/Type_PB",
    "BRACS_6": "val/Group_BT/Type_N",
    "BRACS_7": "val/Group_AT/Type_ADH",
    "BRACS_8": "test/Group_MT/Type_DCIS",
}


@pytest.fixture
def bracs(tmp_path, put, workbook, monkeypatch):
    monkeypatch.setattr(module, "PUBLISHED", 8)
    for name, home in HOMES.items():
        put(tmp_path / "BRACS_WSI" / home / f"{name}.svs")
    workbook(tmp_path / "BRACS.xlsx", "WSI_Information", [HEADER, *SLIDES])
    return tmp_path


def test_the_tree_becomes_a_cohort_row_by_row(bracs, table):
    make_cohort("bracs", bracs, bracs / "c.csv")
    rows = table(bracs / "c.csv")
    assert [
        (row["slide_id"], row["label"], row["patient_id"], row["split"], row["stratum"])
        for row in rows
    ] == [
        ("BRACS_1", "benign", "10", "train", "N"),
        ("BRACS_2", "benign", "11", "train", "UDH"),
        ("BRACS_3", "atypical", "12", "train", "FEA"),
        ("BRACS_4", "malignant", "13", "train", "IC"),
        ("BRACS_6", "benign", "67", "val", "N"),
        ("BRACS_7", "atypical", "14", "val", "ADH"),
        ("BRACS_8", "malignant", "15", "test", "DCIS"),
    ]
    assert rows[2]["path"] == "BRACS_WSI/train/Group_AT/Type_FEA/BRACS_3.svs"


def test_a_patient_in_two_parts_is_kept_in_the_later(bracs):
    made = make_cohort("bracs", bracs, bracs / "c.csv")
    assert made.notes == (
        "excluded 1 slides of patient 67: the official split has other slides of the patient in a "
        "later part",
    )
    split_cohort(read_cohort(bracs / "c.csv"))


def test_without_a_patient_in_two_parts_there_is_no_note(bracs, workbook):
    apart = [row if row[0] != "BRACS_5" else (row[0], "99", *row[2:]) for row in SLIDES]
    workbook(bracs / "BRACS.xlsx", "WSI_Information", [HEADER, *apart])
    made = make_cohort("bracs", bracs, bracs / "c.csv")
    assert (len(made.rows), made.notes) == (8, ())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("WSI", "Patient Id", "WSI label", "Set")], "no column wsi filename in WSI_Information"),
        (
            [HEADER, ("BRACS_1", "1", "", "XX", "Training")],
            "BRACS_1 has label 'XX' and set 'Training'",
        ),
        ([HEADER, ("BRACS_1", "1", "", "N", "Holdout")], "BRACS_1 has label 'N' and set 'Holdout'"),
        ([HEADER, *SLIDES[:7]], "it does not list 1 of the slides here (bracs_8)"),
        (
            [HEADER, ("BRACS_1", "10", "", "PB", "Training"), *SLIDES[1:]],
            "so the two are from different releases",
        ),
    ],
)
def test_a_workbook_of_another_release_is_refused(bracs, workbook, rows, message):
    workbook(bracs / "BRACS.xlsx", "WSI_Information", rows)
    with pytest.raises(CohortError, match=re.escape(message)):
        make_cohort("bracs", bracs, bracs / "c.csv")


def test_a_file_that_is_not_a_workbook_is_refused(bracs, workbook, put):
    workbook(bracs / "BRACS.xlsx", "Sheet9", [HEADER])
    with pytest.raises(CohortError, match=r"BRACS\.xlsx: no sheet 'WSI_Information'"):
        make_cohort("bracs", bracs, bracs / "c.csv")
    put(bracs / "BRACS.xlsx", "a,b,c")
    with pytest.raises(CohortError, match=r"BRACS\.xlsx: not a complete \.xlsx workbook"):
        make_cohort("bracs", bracs, bracs / "c.csv")
    (bracs / "BRACS.xlsx").unlink()
    with pytest.raises(CohortError, match=r"BRACS\.xlsx: no such file"):
        make_cohort("bracs", bracs, bracs / "c.csv")


def test_another_folder_is_refused_with_where_the_set_is(tmp_path):
    with pytest.raises(CohortError, match=r"no folder BRACS_WSI here\. BRACS is at .*CC BY-NC"):
        make_cohort("bracs", tmp_path, tmp_path / "c.csv")
