import re

import pytest

from parfocal.dataset import CohortError
from parfocal.dataset.readers import make_cohort
from parfocal.dataset.readers import panda as module
from parfocal.dataset.readers.panda import GRADES

HEADER = "image_id,data_provider,isup_grade,gleason_score\n"


@pytest.fixture
def biopsies(tmp_path, put, monkeypatch):
    monkeypatch.setattr(module, "PUBLISHED", 3)
    for name in ("0005f7aa", "0018ae58", "b0a92a74"):
        put(tmp_path / "train_images" / f"{name}.tiff")
    put(
        tmp_path / "train.csv",
        HEADER + "0005f7aa,karolinska,0,0+0\n0018ae58,radboud,4,4+4\nb0a92a74,karolinska,2,4+3\n",
    )
    return tmp_path


def test_grades_are_labels_and_centers_strata(biopsies, table):
    made = make_cohort("panda", biopsies, biopsies / "c.csv")
    assert table(biopsies / "c.csv") == [
        {
            "slide_id": "0005f7aa",
            "path": "train_images/0005f7aa.tiff",
            "label": "0",
            "stratum": "karolinska",
        },
        {
            "slide_id": "0018ae58",
            "path": "train_images/0018ae58.tiff",
            "label": "4",
            "stratum": "radboud",
        },
    ]
    assert "excluded b0a92a74: its ISUP grade contradicts its Gleason score" in made.notes


def test_grades_follow_from_scores_as_isup_defines_them():
    def isup(score):  # the sum, and which pattern is the more frequent
        first, second = map(int, score.split("+"))
        return {0: 0, 6: 1, 7: 2 + (first > second), 8: 4}.get(first + second, 5)

    assert all(str(isup(score)) == grade for score, grade in GRADES.items() if "+" in score)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image_id,isup_grade\nx,1\n", "no column data_provider, gleason_score (found: image_id, "),
        (
            HEADER + "0005f7aa,karolinska,9,0+0\n",
            "0005f7aa has grade '9' and score '0+0', which do not",
        ),
        (HEADER + "0005f7aa,karolinska,0,0+0\n", "does not list 2 of the slides here (0018ae58"),
    ],
)
def test_a_label_file_of_another_release_is_refused(biopsies, put, content, message):
    put(biopsies / "train.csv", content)
    with pytest.raises(CohortError, match=re.escape(message)):
        make_cohort("panda", biopsies, biopsies / "c.csv")


def test_another_folder_is_refused_with_where_the_set_is(tmp_path):
    with pytest.raises(CohortError, match=r"no folder train_images here\. PANDA is at .*NC-SA"):
        make_cohort("panda", tmp_path, tmp_path / "c.csv")
