import re
import zipfile

import pytest

from parfocal.dataset import CohortError, read_cohort, read_outlines
from parfocal.dataset.readers import camelyon16 as module
from parfocal.dataset.readers import make_cohort

from .conftest import asap, square


def test_the_bucket_becomes_a_cohort_row_by_row(tmp_path, camelyon16, table):
    folder, out = camelyon16(tmp_path / "CAMELYON16"), tmp_path / "c16.csv"
    made = make_cohort("camelyon16", folder, out)
    assert (made.missing, made.damaged) == ((), {})
    assert made.summary == "10 slides: 6 normal, 4 tumor; train 5; test 5"
    rows = table(out)
    assert [
        tuple(row[name] for name in ("slide_id", "label", "split", "stratum")) for row in rows
    ] == [
        ("normal_001", "normal", "train", "negative"),
        ("normal_002", "normal", "train", "negative"),
        ("normal_003", "normal", "train", "negative"),
        ("tumor_001", "tumor", "train", "macro"),
        ("tumor_002", "tumor", "train", "micro"),
        ("test_001", "normal", "test", "negative"),
        ("test_002", "normal", "test", "negative"),
        ("test_003", "normal", "test", "negative"),
        ("test_004", "tumor", "test", "macro"),
        ("test_005", "tumor", "test", "micro"),
    ]
    assert rows[3]["path"] == "CAMELYON16/images/tumor_001.tif"
    assert {row["slide_id"]: row["outlines"] for row in rows if row["outlines"]} == {
        "tumor_001": "c16-outlines/tumor_001.geojson",
        "test_004": "c16-outlines/test_004.geojson",
    }
    assert [slide.path.exists() for slide in read_cohort(out).slides] == [True] * 10


def test_what_is_cut_out_of_a_lesion_is_a_hole(tmp_path, camelyon16):
    make_cohort("camelyon16", camelyon16(tmp_path / "set"), tmp_path / "c.csv")
    (lesion,) = read_outlines(tmp_path / "c-outlines" / "tumor_001.geojson").polygons
    assert lesion.outer.tolist() == [[8, 8], [48, 8], [48, 48], [8, 48], [8, 8]]
    assert lesion.holes[0].tolist() == [[16, 16], [24, 16], [24, 24], [16, 24], [16, 16]]


@pytest.fixture
def first_published(tmp_path, put, monkeypatch):
    """The older layout with three and two training slides, annotations zipped."""
    monkeypatch.setattr(module, "NORMAL", 3)
    monkeypatch.setattr(module, "TUMOR", 2)
    monkeypatch.setattr(module, "PUBLISHED", 7)
    folder = tmp_path / "first"
    for name in ("normal/normal_001", "normal/normal_002", "normal/normal_003"):
        put(folder / "training" / f"{name}.tif")
    for name in ("tumor/tumor_001", "tumor/tumor_002"):
        put(folder / "training" / f"{name}.tif")
    for number in (1, 2):
        put(folder / "testing" / "images" / f"test_00{number}.tif")
    put(
        folder / "testing" / "reference.csv",
        "test_001,Tumor,IDC,Macro\ntest_002,Normal,None,None\n",
    )
    with zipfile.ZipFile(folder / "training" / "lesion_annotations.zip", "w") as packed:
        packed.writestr("tumor_002.xml", asap(("_1", square(1, 1, 9))))
    return folder


def test_the_first_publication_becomes_the_same(tmp_path, first_published, table):
    make_cohort("camelyon16", first_published, tmp_path / "c.csv")
    assert [
        (row["slide_id"], row["label"], row["split"], row["stratum"], row["outlines"])
        for row in table(tmp_path / "c.csv")
    ] == [
        ("normal_001", "normal", "train", "negative", ""),
        ("normal_002", "normal", "train", "negative", ""),
        ("normal_003", "normal", "train", "negative", ""),
        ("tumor_001", "tumor", "train", "", ""),
        ("tumor_002", "tumor", "train", "", "c-outlines/tumor_002.geojson"),
        ("test_001", "tumor", "test", "macro", ""),
        ("test_002", "normal", "test", "negative", ""),
    ]


def test_the_whole_set_has_270_training_slides(tmp_path, put):
    put(tmp_path / "training" / "normal" / "normal_001.tif")
    put(tmp_path / "testing" / "reference.csv", "test_001,Tumor\n")
    listing = module.read(tmp_path, 0)
    labels = [row.label for row in listing.rows if row.split == "train"]
    assert (labels.count("normal"), labels.count("tumor")) == (159, 111)


def test_withdrawn_slides_need_no_label(tmp_path, camelyon16, put):
    folder = camelyon16(tmp_path / "set")
    put(folder / "images" / "normal_086.tif")
    assert len(make_cohort("camelyon16", folder, tmp_path / "c.csv").rows) == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("patient,stage,center\npatient_000_node_0.tif,itc,0\n", "no column image, type (found: p"),
        ("image,type\nnormal_001.tif,tumor\n", "slide 'normal_001' has type 'tumor'"),
        ("image,type\nnormal_001.tif,pN1\n", "slide 'normal_001' has type 'pN1'"),
        ("image,type\nnormal_001.tif,normal\n", "does not list 9 of the slides here (normal_002"),
        ("", "no column image, type (found: nothing)"),
    ],
)
def test_a_label_file_of_another_release_is_refused(tmp_path, camelyon16, put, content, message):
    folder = camelyon16(tmp_path / "set")
    labels = put(folder / "evaluation" / "reference.csv", content)
    with pytest.raises(CohortError, match=re.escape(message)) as caught:
        make_cohort("camelyon16", folder, tmp_path / "c.csv")
    assert str(caught.value).startswith(str(labels))
    assert "CAMELYON16 is at https://registry.opendata.aws/camelyon/" in str(caught.value)
    assert not (tmp_path / "c.csv").exists()


def test_a_missing_label_file_is_refused(tmp_path, camelyon16, first_published):
    folder = camelyon16(tmp_path / "set")
    (folder / "evaluation" / "reference.csv").unlink()
    with pytest.raises(CohortError, match=r"reference\.csv: no such label file"):
        make_cohort("camelyon16", folder, tmp_path / "c.csv")
    (first_published / "testing" / "reference.csv").unlink()
    with pytest.raises(CohortError, match=r"reference\.csv: no such label file"):
        make_cohort("camelyon16", first_published, tmp_path / "c.csv")


def test_another_folder_is_refused_with_where_the_set_is(tmp_path):
    with pytest.raises(
        CohortError, match=r"neither images/ nor training/ and testing/ here\. CAMELYON16 .*CC0"
    ):
        make_cohort("camelyon16", tmp_path, tmp_path / "c.csv")


def test_annotations_of_unknown_slides_are_refused(tmp_path, camelyon16, put):
    folder = camelyon16(tmp_path / "set")
    put(folder / "annotations" / "patient_017_node_1.xml", asap())
    with pytest.raises(
        CohortError, match="slides that are not in the data set: patient_017_node_1"
    ):
        make_cohort("camelyon16", folder, tmp_path / "c.csv")


def test_lesions_on_a_normal_slide_are_refused(tmp_path, camelyon16, put):
    folder = camelyon16(tmp_path / "set")
    put(folder / "annotations" / "test_001.xml", asap(("_0", square(1, 1, 5))))
    with pytest.raises(CohortError, match="it has lesion annotations but the label normal"):
        make_cohort("camelyon16", folder, tmp_path / "c.csv")


def test_other_drawings_of_the_bucket_are_not_taken_for_lesions(tmp_path, camelyon16, put):
    folder = camelyon16(tmp_path / "set")
    put(folder / "background_tissue" / "tumor_002.xml", "<other/>")
    assert make_cohort("camelyon16", folder, tmp_path / "c.csv").damaged == {}
