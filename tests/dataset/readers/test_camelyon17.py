import re

import pytest

from parfocal.dataset import CohortError, read_cohort, read_outlines, split_cohort
from parfocal.dataset.readers import make_cohort


def by_part(rows, part):
    return {row["slide_id"] for row in rows if row["split"] == part}


def patients(rows, part):
    return {row["patient_id"] for row in rows if row["split"] == part}


def test_the_bucket_becomes_a_cohort_row_by_row(tmp_path, camelyon17, table):
    folder, out = camelyon17(tmp_path / "CAMELYON17"), tmp_path / "c17.csv"
    made = make_cohort("camelyon17", folder, out)
    rows = {row["slide_id"]: row for row in table(out)}
    for name, row in rows.items():
        patient = int(name[8:11])
        assert row["patient_id"] == name[:11]
        assert row["path"] == f"CAMELYON17/images/{name}.tif"
        assert row["label"] == ("normal" if patient < 4 else "tumor")
    assert rows["patient_004_node_0"]["stratum"] == "macro"
    assert rows["patient_004_node_1"]["stratum"] == "micro"
    assert rows["patient_000_node_0"]["stratum"] == "negative"
    (lesion,) = read_outlines(tmp_path / rows["patient_004_node_0"]["outlines"]).polygons
    assert len(lesion.holes) == 1
    assert made.notes[-1] == "excluded 1 slides: labels of patients 100 to 199 are not public"


def test_a_quarter_of_the_patients_is_tested_and_none_is_in_two_parts(tmp_path, camelyon17, table):
    folder = camelyon17(tmp_path / "set")
    make_cohort("camelyon17", folder, tmp_path / "c.csv")
    rows = table(tmp_path / "c.csv")
    parts = [patients(rows, part) for part in ("train", "val", "test")]
    assert [len(part) for part in parts] == [4, 2, 2]
    assert len(set.union(*parts)) == 8
    assert {row["label"] for row in rows if row["split"] == "test"} == {"normal", "tumor"}
    split_cohort(read_cohort(tmp_path / "c.csv"))


def test_itc_slides_are_for_testing_and_never_for_training(tmp_path, camelyon17, table):
    folder = camelyon17(tmp_path / "set")
    made = make_cohort("camelyon17", folder, tmp_path / "c.csv")
    rows = table(tmp_path / "c.csv")
    (itc,) = {row["slide_id"] for row in rows if row["stratum"] == "itc"}
    assert itc in by_part(rows, "test")
    assert made.notes[0].startswith("excluded 2 slides: those with only isolated tumor cells")
    assert len(rows) == 14


def test_the_split_is_the_seeds(tmp_path, camelyon17, table):
    folder, splits = camelyon17(tmp_path / "set"), []
    for seed in (1, 1, 2, 3):
        make_cohort("camelyon17", folder, tmp_path / "c.csv", seed=seed)
        splits.append(frozenset(by_part(table(tmp_path / "c.csv"), "test")))
    assert splits[0] == splits[1]
    assert len(set(splits)) > 1


def test_a_missing_slide_moves_no_other_to_another_part(tmp_path, camelyon17, table):
    folder = camelyon17(tmp_path / "set")
    make_cohort("camelyon17", folder, tmp_path / "c.csv")
    before = {row["slide_id"]: row["split"] for row in table(tmp_path / "c.csv")}
    (folder / "images" / "patient_002_node_1.tif").unlink()
    made = make_cohort("camelyon17", folder, tmp_path / "c.csv", partial=True)
    after = {row["slide_id"]: row["split"] for row in table(tmp_path / "c.csv")}
    assert made.missing == ("patient_002_node_1.tif",)
    del before["patient_002_node_1"]
    assert after == before


def test_the_first_publication_is_read_from_its_centers(tmp_path, camelyon17, table):
    bucket, folder = camelyon17(tmp_path / "bucket"), tmp_path / "first"
    for slide in sorted((bucket / "images").glob("patient_00*.tif")):
        home = folder / "training" / f"center_{int(slide.name[10]) % 5}" / slide.name[:11]
        home.mkdir(parents=True, exist_ok=True)
        slide.rename(home / slide.name)
    stages = (bucket / "stages.csv").read_text().splitlines()
    labels = folder / "training" / "stage_labels.csv"
    labels.write_text("\n".join(line.rpartition(",")[0] for line in stages))
    assert labels.read_text().startswith("patient,stage\n")
    assert len(make_cohort("camelyon17", folder, tmp_path / "c.csv").rows) == 14
    assert "first/training/center_1/patient_001/patient_001_node_0.tif" in {
        row["path"] for row in table(tmp_path / "c.csv")
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "image,type,class\ntumor_001.tif,tumor,macro\n",
            "no column patient, stage (found: image,",
        ),
        ("patient,stage\npatient_000_node_0.tif,pN1\n", "'patient_000_node_0.tif' has stage 'pN1'"),
        ("patient,stage\ntumor_001.tif,macro\n", "'tumor_001.tif' has stage 'macro'"),
        ("patient,stage\npatient_000_node_0.tif,itc\n", "it does not list 15 of the slides here"),
    ],
)
def test_a_label_file_of_another_release_is_refused(tmp_path, camelyon17, put, content, message):
    folder = camelyon17(tmp_path / "set")
    put(folder / "stages.csv", content)
    with pytest.raises(CohortError, match=re.escape(message)):
        make_cohort("camelyon17", folder, tmp_path / "c.csv")


def test_zip_files_of_patients_must_be_unpacked(tmp_path, put):
    put(tmp_path / "training" / "center_0" / "patient_000.zip", "PK")
    put(tmp_path / "training" / "stage_labels.csv", "patient,stage\n")
    with pytest.raises(CohortError, match=r"no slide, but 1 zip files of patients; unpack them"):
        make_cohort("camelyon17", tmp_path, tmp_path / "c.csv")


def test_another_folder_is_refused_with_where_the_set_is(tmp_path):
    with pytest.raises(CohortError, match=r"neither images/ nor training/ here\. CAMELYON17 is at"):
        make_cohort("camelyon17", tmp_path, tmp_path / "c.csv")


def test_both_sets_are_shuffled_and_split_80_to_20(tmp_path, camelyon16, camelyon17, table):
    camelyon16(tmp_path / "CAMELYON16")
    camelyon17(tmp_path / "CAMELYON17")
    make_cohort("camelyon", tmp_path, tmp_path / "both.csv")
    make_cohort("camelyon17", tmp_path / "CAMELYON17", tmp_path / "c17.csv")
    rows = table(tmp_path / "both.csv")
    assert by_part(rows, "test") == by_part(table(tmp_path / "c17.csv"), "test")
    pool = [row for row in rows if row["split"] != "test"]
    first = [row for row in pool if not row["slide_id"].startswith("patient")]
    assert len(first) == 10  # all of CAMELYON16, its own test slides too
    assert not {row["slide_id"] for row in pool if row["stratum"] == "itc"}
    groups = [row["patient_id"] or row["slide_id"] for row in pool if row["split"] == "val"]
    whole = {row["patient_id"] or row["slide_id"] for row in pool}
    assert len(set(groups)) == pytest.approx(0.2 * len(whole), abs=1)
    split_cohort(read_cohort(tmp_path / "both.csv"))


def test_one_of_both_sets_is_not_enough(tmp_path, camelyon16):
    camelyon16(tmp_path / "CAMELYON16")
    with pytest.raises(CohortError, match="no folder CAMELYON17 here"):
        make_cohort("camelyon", tmp_path, tmp_path / "c.csv")
