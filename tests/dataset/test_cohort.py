import re
from pathlib import Path

import pytest

from parfocal.dataset import CohortError, read_cohort, read_slides, require_files


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "cohort.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_ids_stay_strings_and_paths_start_at_the_folder_of_the_table(tmp_path):
    cohort = read_cohort(written(tmp_path, "slide_id,path,label\n007,a/7.svs,no\n8,/x/8.svs,yes\n"))
    assert [slide.slide_id for slide in cohort.slides] == ["007", "8"]
    assert [slide.path for slide in cohort.slides] == [tmp_path / "a/7.svs", Path("/x/8.svs")]
    assert cohort.labels == ("no", "yes")
    assert cohort.slides[0].patient_id == "007"


def test_a_byte_order_mark_spaces_and_blank_rows_are_ignored(tmp_path):
    text = 'slide_id , path,label,mpp\n 1,a.svs , no,\n,,,\n\n2,"b, c.svs",yes, 0.25 \n'
    slides = read_cohort(written(tmp_path, text, "utf-8-sig")).slides
    assert [slide.slide_id for slide in slides] == ["1", "2"]
    assert slides[1].path == tmp_path / "b, c.svs"
    assert [slide.mpp for slide in slides] == [None, 0.25]
    assert [slide.row for slide in slides] == [2, 5]


def test_optional_columns_are_read(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    text = (
        "slide_id,path,label,patient_id,split,stratum,outlines,remark\n"
        "1,a.svs,no,P,Train,east,a.json,x\n2,b.svs,yes,Q,test,,,\n"
    )
    first, second = read_cohort(written(tmp_path, text)).slides
    assert (first.patient_id, first.split, first.stratum) == ("P", "train", "east")
    assert first.outlines == tmp_path / "a.json"
    assert (second.split, second.stratum, second.outlines) == ("test", None, None)
    folds = "slide_id,path,label,fold\n1,a.svs,no,0\n2,b.svs,yes,1\n"
    assert [slide.fold for slide in read_cohort(written(tmp_path, folds)).slides] == [0, 1]


def test_the_class_order_can_be_given(tmp_path):
    path = written(tmp_path, "slide_id,path,label\n1,a.svs,tumor\n")
    assert read_cohort(path, labels=("tumor", "benign")).labels == ("tumor", "benign")


def test_slides_are_read_without_labels(tmp_path):
    path = written(tmp_path, "slide_id,path,mpp\n007,a.svs,0.25\n8,/x/8.svs,\n")
    assert read_slides(path) == (
        ("007", tmp_path / "a.svs", 0.25),
        ("8", Path("/x/8.svs"), None),
    )
    read_slides(written(tmp_path, "slide_id,path,label\n1,a.svs,no\n2,b.svs,no\n"))
    with pytest.raises(CohortError, match=r"row 3: slide_id '1' is also in row 2"):
        read_slides(written(tmp_path, "slide_id,path\n1,a\n1,b\n"))
    with pytest.raises(
        CohortError, match=r"no column path \(found: slide_id\); it needs slide_id,"
    ):
        read_slides(written(tmp_path, "slide_id\n1\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; it needs slide_id, path, label"),
        ("slide_id,path,label\n", "no slides below the header"),
        ("slide_id,file\n1,a\n", "no column path, label (found: slide_id, file); it needs"),
        (
            "slide_id;path;mpp\n1;a;0,5\n",
            "the columns are separated by semicolons; separate them by",
        ),
        ('"slide_id"\t"path"\t"label"\n', "the columns are separated by tabs"),
        ("slide_id|path|label\n", "the columns are separated by vertical bars"),
        ("slide_id,path,label,label\n1,a,b,c\n", "column 'label' appears twice"),
        ("slide_id,path,label,split,fold\n1,a,b,c,0\n", "both split and fold"),
        ("slide_id,path,label\n1,a,b\n1,c,d\n", "row 3: slide_id '1' is also in row 2"),
        ("slide_id,path,label\n1,a,b\n2,c,b\n", "every slide has the label 'b'"),
        ("slide_id,path,label\n1,a,b\n2,c,\n", "row 3: label is empty"),
        ("slide_id,path,label\n1,,b\n2,c,d\n", "row 2: path is empty"),
        ("slide_id,path,label\n1,a,b,c\n", "row 2: 4 cells under 3 columns"),
        (
            "slide_id,path,label\na/b,a,b\n",
            "row 2: slide_id 'a/b' contains a slash, and files are named after it",
        ),
        ("slide_id,path,label,split\n1,a,b,tran\n", "row 2: unknown split 'tran'; use train, val"),
        ("slide_id,path,label,fold\n1,a,b,x\n", "row 2: fold 'x' is not a whole number"),
        ("slide_id,path,label,mpp\n1,a,b,40x\n", "row 2: mpp '40x' is not a number of microns"),
        ("slide_id,path,label,mpp\n1,a,b,500\n", "row 2: mpp '500'"),
        ("slide_id,path,label,outlines\n1,a,b,o.json\n", "row 2: no outlines at"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(CohortError, match=re.escape(message)) as caught:
        read_cohort(written(tmp_path, text))
    assert str(caught.value).startswith("cohort.csv")
    assert "\n" not in str(caught.value)


def test_a_label_outside_the_given_classes_is_refused(tmp_path):
    path = written(tmp_path, "slide_id,path,label\n1,a,benign\n2,b,cancer\n")
    with pytest.raises(
        CohortError, match="row 3: unknown label 'cancer'; the classes are benign, t"
    ):
        read_cohort(path, labels=("benign", "tumor"))


def test_a_file_that_is_not_a_table_is_refused(tmp_path):
    with pytest.raises(CohortError, match=r"no such file; give a cohort, a \.csv or \.xlsx file"):
        read_cohort(tmp_path / "none.csv")
    with pytest.raises(CohortError, match=r"a folder; give a cohort, a \.csv or \.xlsx file"):
        read_cohort(tmp_path)
    path = tmp_path / "cohort.xlsx"
    path.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(CohortError, match=r"cohort\.xlsx: not a complete \.xlsx workbook"):
        read_cohort(path)


def test_every_missing_slide_file_is_listed_and_counted(tmp_path):
    text = "slide_id,path,label\n1,a.svs,no\n2,b.svs,yes\n3,c.svs,yes\n"
    cohort = read_cohort(written(tmp_path, text))
    (tmp_path / "b.svs").touch()
    files = [(slide, slide.path) for slide in cohort.slides]
    with pytest.raises(CohortError, match=r"2 slide files missing: .*a.svs \(row 2\), .*c.svs \("):
        require_files(cohort.source, files, "slide files")
