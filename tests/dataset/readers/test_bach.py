import re
from collections import Counter

import pytest

from parfocal.dataset import CohortError, read_cohort, split_cohort
from parfocal.dataset.readers import bach as module
from parfocal.dataset.readers import make_cohort


@pytest.fixture
def photos(tmp_path, put, monkeypatch):
    """Ten images of each class; the whole set has 400."""
    monkeypatch.setattr(module, "PUBLISHED", 40)
    folder, lines = tmp_path / "ICIAR2018_BACH_Challenge" / "Photos", []
    for prefix, label in (("b", "Benign"), ("is", "InSitu"), ("iv", "Invasive"), ("n", "Normal")):
        for number in range(1, 11):
            put(folder / label / f"{prefix}{number:03}.tif")
            lines.append(f"{prefix}{number:03}.tif,{label}")
    put(folder / "microscopy_ground_truth.csv", "\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("level", [1, 0])
def test_a_fifth_of_each_class_is_for_testing(tmp_path, photos, table, level):
    made = make_cohort("bach", photos.parents[level], tmp_path / "c.csv")
    rows = table(tmp_path / "c.csv")
    assert Counter((row["label"], row["split"]) for row in rows) == {
        (label, split): count
        for label in ("Benign", "InSitu", "Invasive", "Normal")
        for split, count in (("train", 8), ("test", 2))
    }
    assert rows[0] == {
        "slide_id": "b001",
        "path": "ICIAR2018_BACH_Challenge/Photos/Benign/b001.tif",
        "label": "Benign",
        "mpp": "0.42",
        "split": rows[0]["split"],
    }
    assert "100 test images of the challenge are not public" in made.notes[0]
    assert len(split_cohort(read_cohort(tmp_path / "c.csv")).val) > 0


def test_of_400_images_80_are_tested(tmp_path, put):
    lines = [f"x{n:03}.tif,{label}" for n, label in enumerate(module.CLASSES * 100)]
    put(tmp_path / "Photos" / "microscopy_ground_truth.csv", "\n".join(lines))
    parts = Counter(row.split for row in module.read(tmp_path, 0).rows)
    assert parts == {"train": 320, "test": 80}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "b001.tif,DCIS\n",
            "a row 'b001.tif,DCIS', expected a file name and one of Benign, InSitu",
        ),
        ("image,label\n", "a row 'image,label', expected"),
        (
            "b001.tif,Normal\n",
            "microscopy_ground_truth.csv labels it Normal, so they are from different",
        ),
        ("b001.tif,Benign\n", "it does not list 39 of the slides here (b002, b003,"),
    ],
)
def test_a_label_file_of_another_release_is_refused(tmp_path, photos, put, content, message):
    put(photos / "microscopy_ground_truth.csv", content)
    with pytest.raises(CohortError, match=re.escape(message)):
        make_cohort("bach", tmp_path, tmp_path / "c.csv")


def test_a_missing_label_file_or_folder_is_refused(tmp_path, photos):
    (photos / "microscopy_ground_truth.csv").unlink()
    with pytest.raises(CohortError, match=r"microscopy_ground_truth\.csv: no such label file"):
        make_cohort("bach", tmp_path, tmp_path / "c.csv")
    with pytest.raises(CohortError, match=r"no folder Photos.*zenodo.org/records/3632035"):
        make_cohort("bach", photos, tmp_path / "c.csv")
