import re

import pytest

from parfocal.dataset import CohortError, read_cohort, split_cohort
from parfocal.dataset.readers import bright as module
from parfocal.dataset.readers import make_cohort

HOMES = {
    "Train/WSIs/Noncancerous/PB/BRACS_1": ("noncancerous", "PB"),
    "Train/WSIs/Noncancerous/UDH/BRACS_2": ("noncancerous", "UDH"),
    "Train/WSIs/Type_FEA/BRACS_3": ("precancerous", "FEA"),
    "Train/WSIs/Type_ADH/BRACS_4": ("precancerous", "ADH"),
    "Train/WSIs/Cancerous/BRACS_5": ("cancerous", ""),
    "Train/WSIs/Cancerous/BRACS_6": ("cancerous", ""),
    "Validation/WSIs/Non-cancerous/BRACS_7": ("noncancerous", ""),
    "Validation/WSIs/Pre-cancerous/BRACS_8": ("precancerous", ""),
    "Validation/WSIs/DCIS/BRACS_9": ("cancerous", "DCIS"),
}
HEADER = "image_name,Task1-target,Task2-target\n"


@pytest.fixture
def bright(tmp_path, put, monkeypatch):
    """Nine labeled slides and two to test, whose labels are hidden; the whole set has 703."""
    monkeypatch.setattr(module, "PUBLISHED", 11)
    for home in (*HOMES, "Test/WSIs/BRACS_10", "Test/WSIs/BRACS_11"):
        put(tmp_path / f"{home}.svs")
    put(tmp_path / "Train" / "ROIs" / "0_PB" / "BRACS_1_PB_1.png", "a region")
    return tmp_path


def test_the_tree_becomes_a_cohort_row_by_row(bright, table):
    make_cohort("bright", bright, bright / "c.csv")
    assert {
        row["path"].removesuffix(".svs"): (row["label"], row["stratum"])
        for row in table(bright / "c.csv")
    } == HOMES


def test_without_test_labels_the_validation_slides_are_for_testing(bright, table):
    made = make_cohort("bright", bright, bright / "c.csv")
    parts = {row["slide_id"]: row["split"] for row in table(bright / "c.csv")}
    assert {name for name, part in parts.items() if part == "test"} == {
        *("BRACS_7", "BRACS_8", "BRACS_9")
    }
    assert set(parts.values()) == {"train", "test"}
    assert made.notes[1].startswith("excluded 2 test slides, without public labels")
    assert len(split_cohort(read_cohort(bright / "c.csv")).val) == 3


def test_with_the_organizers_targets_the_parts_are_theirs(bright, put, table):
    put(bright / "test_targets.csv", HEADER + "BRACS_10,2,5\nBRACS_11,0,1\n")
    made = make_cohort("bright", bright, bright / "c.csv")
    rows = {row["slide_id"]: row for row in table(bright / "c.csv")}
    assert [rows["BRACS_10"][name] for name in ("label", "stratum", "split")] == [
        *("cancerous", "IC", "test")
    ]
    assert (rows["BRACS_11"]["label"], rows["BRACS_7"]["split"]) == ("noncancerous", "val")
    assert len(made.notes) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,label\nx,1\n", "no column image_name, task1-target (found: image, label)"),
        (HEADER + "BRACS_10,0,4\n", "BRACS_10 has the targets '0' and '4', which contradict"),
        (HEADER + "BRACS_10,3,\n", "BRACS_10 has the targets '3' and ''"),
        (HEADER + "BRACS_1,2,5\n", "its folder and its row in the targets disagree"),
    ],
)
def test_targets_of_another_set_are_refused(bright, put, content, message):
    put(bright / "train_targets.csv", content)
    with pytest.raises(CohortError, match=re.escape(message)):
        make_cohort("bright", bright, bright / "c.csv")


def test_training_slides_need_a_class(bright, put):
    put(bright / "Train" / "WSIs" / "BRACS_12.svs")
    with pytest.raises(CohortError, match=r"1 slides have no class, .*: BRACS_12\.svs\."):
        make_cohort("bright", bright, bright / "c.csv")


def test_targets_of_some_test_slides_are_not_enough(bright, put):
    put(bright / "test_targets.csv", HEADER + "BRACS_10,2,5\n")
    with pytest.raises(CohortError, match=r"1 slides have no class, .*: BRACS_11\.svs\."):
        make_cohort("bright", bright, bright / "c.csv")


def test_slides_that_are_not_here_are_counted(bright, monkeypatch):
    monkeypatch.setattr(module, "PUBLISHED", 703)
    with pytest.raises(
        CohortError, match=r"692 of 701 slides are missing or damaged \(missing: 692 t"
    ):
        make_cohort("bright", bright, bright / "c.csv")
    assert len(make_cohort("bright", bright, bright / "c.csv", partial=True).rows) == 9


def test_another_folder_is_refused_with_where_the_set_is(tmp_path):
    with pytest.raises(CohortError, match=r"no Train/WSIs and Validation/WSIs here\. BRIGHT is at"):
        make_cohort("bright", tmp_path, tmp_path / "c.csv")
