import logging
import os
import re
from pathlib import Path

import pytest

from parfocal.dataset import CohortError, read_cohort, read_slides, require_files
from parfocal.dataset.outlines_file import OutlinesFile


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
    assert first.outlines == OutlinesFile(tmp_path / "a.json")
    assert (second.split, second.stratum, second.outlines) == ("test", None, None)
    folds = "slide_id,path,label,fold\n1,a.svs,no,0\n2,b.svs,yes,1\n"
    assert [slide.fold for slide in read_cohort(written(tmp_path, folds)).slides] == [0, 1]


def test_the_class_order_can_be_given(tmp_path):
    path = written(tmp_path, "slide_id,path,label\n1,a.svs,tumor\n")
    assert read_cohort(path, labels=("tumor", "benign")).labels == ("tumor", "benign")


def test_slides_are_read_without_labels(tmp_path):
    path = written(tmp_path, "slide_id,path,mpp\n007,a.svs,0.25\n8,/x/8.svs,\n")
    assert [(s.slide_id, s.path, s.label, s.mpp) for s in read_slides(path)] == [
        ("007", tmp_path / "a.svs", "", 0.25),
        ("8", Path("/x/8.svs"), "", None),
    ]
    read_slides(written(tmp_path, "slide_id,path,label\n1,a.svs,no\n2,b.svs,NA\n"))
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
        ("slide_id,file\n1,a\n", "no columns path, label (found: slide_id, file); it needs"),
        ("slide_id,path,label,label\n1,a,b,c\n", "column 'label' appears twice"),
        ("slide_id,path,label,split,fold\n1,a,b,c,0\n", "both split and fold"),
        ("slide_id,path,label\n1,a,b\n1,c,d\n", "row 3: slide_id '1' is also in row 2"),
        ("slide_id,path,label\n1,a,b\n2,c,b\n", "every slide has the label 'b'"),
        ("slide_id,path,label\n1,a,b\n2,c,\n", "row 3: label is empty"),
        ("slide_id,path,label\n1,,b\n2,c,d\n", "row 2: path is empty"),
        ("slide_id,path,label\n1,a,b,c\n", "row 2: 4 cells under 3 columns"),
        ("slide_id,path,label\nNA,a,b\n", "row 2: slide_id is empty ('NA'); every slide needs"),
        ("slide_id,path,label\n1,None,b\n", "row 2: path is empty ('None')"),
        ("slide_id,path,label\n1,a,b\n2,c,NaN\n", "row 3: label 'NaN' means a missing value; give"),
        (
            "slide_id,path,label\n1,a,b\n2,c,null\n3,d,-\n4,e,\n",
            "row 3: label 'null' means a missing value (and 2 more rows)",
        ),
        (
            "slide_id,path,label\n1,a,Tumor\n2,b,no\n3,c,tumor\n",
            "row 4: label 'tumor' is 'Tumor' of row 2 but for case, spaces or characters that look",
        ),
        ("slide_id,path,label\n1,a,grade 1\n2,b,grade  1\n", "label 'grade  1' is 'grade 1' of"),
        ("slide_id,path,label\n1,a,1\n2,b,1.0\n", "label '1.0' is '1' of row 2"),
        ("slide_id,path,label\n1,a,3–3\n2,b,3-3\n", "label '3-3' is '3–3' of row 2"),
        ("slide_id,path,label\n1,a,ö\n2,b,o\u0308\n", "but for case, spaces or characters"),
        ('slide_id,path,label\n1,a,"no\nx"\n', "contains a character that cannot be seen (control"),
        ("slide_id,path,label\n1\u200b,a,no\n", "cannot be seen (zero width space); remove it"),
        ("slide_id,path,label\ns1,a,b\nS1,c,d\n", "row 3: slide_id 'S1' is 's1' of row 2 but for"),
        (
            "slide_id,path,label,patient_id\n1,a,b,P 1\n2,c,d,p1\n",
            "row 3: patient_id 'p1' is 'P 1' of row 2 but for",
        ),
        ("slide_id,path,label\n..x,a,b\n", "row 2: slide_id '..x' begins with a dot, and files"),
        (f"slide_id,path,label\n{'x' * 201},a,b\n", " is longer than 200 bytes, and"),
        (
            "slide_id,path,label\n1,x/a,b\n2,./x//a,d\n",
            "(slide_id '1' and '2', label 'b' and 'd'), so a model could be trained and tested on",
        ),
        ("slide_id,path,label\n1,a,no\n2,a,NA\n", "row 3: label 'NA' means a missing value"),
        ("slide_id,path,label\n1,a,no\n2,a,No\n", "row 3: label 'No' is 'no' of row 2 but for"),
        (
            "slide_id,path,label\n1,a,b\n2,a,d\n3,a,b\n",
            "the slide file of row 2 (slide_id '1' and '2', label 'b' and 'd'; 2 such rows)",
        ),
        (
            "slide_id,path,label,outlines\n1,a,b,a.geojson:\n",
            "row 2: outlines 'a.geojson:' names no class after the colon; write a.geojson:Tumor",
        ),
        (
            "slide_id,path,label,outlines,outlines_offset\n1,a,b,a.geojson,right\n",
            "row 2: outlines_offset 'right' is not x and y in level-0 pixels, such as 2048 77, nor",
        ),
        (
            "slide_id,path,label\na/b,a,b\n",
            "row 2: slide_id 'a/b' contains a slash, and files are named after it",
        ),
        ("slide_id,path,label,split\n1,a,b,tran\n", "row 2: unknown split 'tran'; use train, val"),
        ("slide_id,path,label,fold\n1,a,b,x\n", "row 2: fold 'x' is not a whole number"),
        ("slide_id,path,label,mpp\n1,a,b,40x\n", "row 2: mpp '40x' is not a number of microns"),
        ("slide_id,path,label,mpp\n1,a,b,500\n", "row 2: mpp '500'"),
        ("slide_id,path,label,outlines\n1,a,b,o.json\n", "1 outlines file missing: "),
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
    with pytest.raises(
        CohortError, match=r"not trained on \(cancer 1\); remove these slides, or tr"
    ):
        read_cohort(path, labels=("benign", "tumor"))
    with pytest.raises(CohortError, match="the classes are Benign, cancer; write 'Benign'"):
        read_cohort(path, labels=("Benign", "cancer"))


def test_a_file_that_is_not_a_table_is_refused(tmp_path):
    with pytest.raises(CohortError, match=r"no such file; give a cohort, a \.csv or \.xlsx file"):
        read_cohort(tmp_path / "none.csv")
    with pytest.raises(CohortError, match=r"a folder; give a cohort, a \.csv or \.xlsx file"):
        read_cohort(tmp_path)
    path = tmp_path / "cohort.xlsx"
    path.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(CohortError, match=r"cohort\.xlsx: not a complete \.xlsx workbook"):
        read_cohort(path)


def required(folder: Path, *paths: str) -> None:
    rows = [f"{number},{path},{('no', 'yes')[number % 2]}" for number, path in enumerate(paths)]
    cohort = read_cohort(written(folder, "\n".join(["slide_id,path,label", *rows])))
    require_files(cohort.source, [(each, each.path) for each in cohort.slides], "slide file")


def test_missing_slide_files_are_counted_and_the_first_ones_listed(tmp_path):
    (tmp_path / "b.svs").touch()
    with pytest.raises(CohortError, match=r"2 slide files missing: .*a.svs \(row 2\), .*c.svs \("):
        required(tmp_path, "a.svs", "b.svs", "c.svs")
    with pytest.raises(
        CohortError, match=r": 1000 slide files missing: .*\(row 4\), and 997 more\. R"
    ) as long:
        required(tmp_path, *(f"{number}.svs" for number in range(1000)))
    assert len(str(long.value)) < 500 + 3 * len(str(tmp_path))


@pytest.mark.skipif(os.sep == "\\", reason="Windows reads backslashes itself")
def test_backslashes_separate_folders_where_such_a_file_exists(tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "1.svs").touch()
    (tmp_path / r"a\b.svs").touch()
    text = "slide_id,path,label\n1,slides\\1.svs,no\n2,a\\b.svs,yes\n"
    slides = read_cohort(written(tmp_path, text)).slides
    assert [slide.path for slide in slides] == [
        tmp_path / "slides" / "1.svs",
        tmp_path / r"a\b.svs",
    ]
    with pytest.raises(
        CohortError, match=r"Backslashes, as Windows writes them, were read as slash"
    ):
        required(tmp_path, r"none\1.svs", "b.svs")
    with pytest.raises(
        CohortError, match=r"paths of a Windows computer, with the letter of a drive"
    ):
        required(tmp_path, r"D:\slides\1.svs", "b.svs")


def test_a_path_may_start_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = "slide_id,path,label\n1,~/1.svs,no\n2,~2.svs,yes\n"
    first, second = read_cohort(written(tmp_path, text)).slides
    assert (first.path, second.path) == (tmp_path / "home" / "1.svs", tmp_path / "~2.svs")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_behind_a_link_is_the_same_file(tmp_path, link):
    (tmp_path / "a.svs").touch()
    link(tmp_path / "a.svs", tmp_path / "b.svs")
    text = "slide_id,path,label\n1,a.svs,no\n2,b.svs,yes\n"
    with pytest.raises(CohortError, match=r"row 3: .*b\.svs is also the slide file of row 2"):
        read_cohort(written(tmp_path, text))
    with pytest.raises(CohortError, match=r"row 3: .*b\.svs is also the slide file of row 2"):
        read_slides(tmp_path / "cohort.csv")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://H.org/a/s.svs", "https://h.org:443/a/s.svs"),
        ("https://h.org/a/s.svs", "http://h.org/b/../a/s.svs#x"),
        ("https://h.org/a%20b.svs?id=1&sig=x", "https://h.org/a%20b.svs?X-Amz-Date=2&id=1"),
        ("gs://b/s.svs", "gcs://b/s.svs"),
    ],
)
def test_two_urls_of_one_file_are_refused(tmp_path, one, other):
    path = written(tmp_path, f"slide_id,path,label\n1,{one},a\n2,{other},b\n")
    with pytest.raises(CohortError, match=r"row 3: .* is also the slide file of row 2"):
        read_cohort(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://h.org/s.svs?id=1", "https://h.org/s.svs?id=2"),
        ("https://h.org:8042/s.svs", "https://h.org:8043/s.svs"),
        ("https://h.org/S.svs", "https://h.org/s.svs"),
        ("s3://b/s.svs", "s3://b//s.svs"),
        ("s3://b/s.svs", "s3://c/s.svs"),
    ],
)
def test_urls_of_two_files_are_read(tmp_path, one, other):
    path = written(tmp_path, f"slide_id,path,label\n1,{one},a\n2,{other},b\n")
    assert len(read_cohort(path).slides) == 2


def test_a_class_that_looks_like_a_missing_value_has_to_be_named(tmp_path):
    path = written(tmp_path, "slide_id,path,label\n1,a,None\n2,b,Tumor\n3,c,None\n")
    with pytest.raises(CohortError, match=r"--set 'train\.labels=\[None, Tumor\]'"):
        read_cohort(path)
    assert read_cohort(path, labels=("None", "Tumor")).labels == ("None", "Tumor")


@pytest.mark.parametrize("other", ["low_grade", "Low-grade", "low\u00a0grade", "l\u043ew grade"])
def test_labels_that_look_alike_are_refused(tmp_path, other):
    path = written(tmp_path, f"slide_id,path,label\n1,a,low grade\n2,b,{other}\n3,c,high\n")
    message = r"row 3: label .* is 'low grade' of row 2.*list all in train\.labels\."
    with pytest.raises(CohortError, match=message):
        read_cohort(path)


def test_labels_that_differ_in_case_may_be_two_classes_if_both_are_named(tmp_path):
    path = written(tmp_path, "slide_id,path,label\n1,a,m\n2,b,M\n")
    assert read_cohort(path, labels=("m", "M")).summary.startswith("2 classes: m 1, M 1")


def test_words_for_missing_values_leave_optional_columns_empty(tmp_path):
    text = (
        "slide_id,path,label,patient_id,mpp,stratum,outlines,tissue\n"
        "1,a,no,NA,n/a,none,-,#N/A\n2,b,yes,nan,NULL,,None,nan\n"
    )
    first, second = read_cohort(written(tmp_path, text)).slides
    assert (first.patient_id, first.mpp, first.outlines, first.tissue) == ("1", None, None, None)
    assert (second.patient_id, second.mpp, second.outlines) == ("2", None, None)
    assert (first.stratum, second.stratum) == ("none", None)


def test_the_classes_and_patients_are_counted_in_one_line(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rows = "1,a,no,P\n2,b,no,P\n3,c,yes,Q\n4,d,yes,\n"
    path = written(tmp_path, f"slide_id,path,label,patient_id\n{rows}")
    assert read_cohort(path).summary == "2 classes: no 2, yes 2 (4 slides of 3 patients)"
    assert "cohort.csv: 2 classes: no 2, yes 2 (4 slides of 3 patients)" in caplog.text
    assert "1 of 4 slides have no patient_id; each counts as a patient of its own" in caplog.text
    caplog.clear()
    read_slides(path)
    assert "cohort.csv: 2 classes: no 2, yes 2 (4 slides of 3 patients)" in caplog.text
    path = written(tmp_path, "slide_id,path\n1,a\n2,b\n")
    read_slides(path)
    assert "cohort.csv: 2 slides, patients not given" in caplog.text
    path = written(tmp_path, "slide_id,path,label\n1,a,x\n")
    summary = read_cohort(path, labels=("x", "y")).summary
    assert summary == "2 classes: x 1, y 0 (1 slide, patients not given)"


def test_the_summary_counts_slides_without_a_label(tmp_path, caplog):
    path = written(tmp_path, "slide_id,path,label\na,a.tif,None\nb,b.tif,Focal\nc,c.tif,\n")
    with caplog.at_level(logging.INFO):
        read_slides(path)
    assert "1 class: Focal 1; 2 slides without a label (3 slides, patients" in caplog.text


def test_only_the_first_of_very_many_classes_are_listed(tmp_path):
    rows = "".join(f"{number},{number}.svs,{number // 2 / 7:.4f}\n" for number in range(60))
    summary = read_cohort(written(tmp_path, f"slide_id,path,label\n{rows}")).summary
    assert summary.startswith("30 classes: 0.0000: 2, 0.1429: 2, ")
    assert ", ... (60 slides" in summary


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_tables_of_other_spreadsheets_are_read(tmp_path, separator, encoding):
    rows = [("Slide_ID", "Path", "Label", "mpp", ""), ("1", "ä.svs", "no", "0,25", "")]
    text = "\r\n".join(separator.join(row) for row in [*rows, ("2", "b.svs", "yes", "", "")])
    slides = read_cohort(written(tmp_path, text, encoding)).slides
    assert [(slide.slide_id, slide.label, slide.mpp) for slide in slides] == [
        ("1", "no", 0.25),
        ("2", "yes", None),
    ]
    assert slides[0].path == tmp_path / "ä.svs"


def test_classes_and_an_offset_of_outlines_are_read(tmp_path):
    for name in ("a.geojson", "b.geojson", "odd.json:x"):
        (tmp_path / name).write_text("[]")
    text = (
        "slide_id,path,label,outlines,outlines_offset\n"
        "1,a,no,a.geojson:Tumor,\n"
        '2,b,yes,"b.geojson: Tumor| Tumor: in situ ",2048 -77.5\n'
        "3,c,yes,odd.json:x,bounds\n"
    )
    assert [slide.outlines for slide in read_cohort(written(tmp_path, text)).slides] == [
        OutlinesFile(tmp_path / "a.geojson", ("Tumor",)),
        OutlinesFile(tmp_path / "b.geojson", ("Tumor", "Tumor: in situ"), (2048, -77.5)),
        OutlinesFile(tmp_path / "odd.json:x", (), "bounds"),
    ]


@pytest.mark.parametrize("name", ["MPP", "Mpp", " mpp "])
@pytest.mark.parametrize("slide_id", ["Slide_ID", "slide-id", "Slide ID", "SlideID"])
def test_columns_are_found_however_they_are_spelled(tmp_path, slide_id, name):
    text = f"{slide_id},PATH,Label,{name},Patient-ID\n1,a,x,0.25,A\n2,b,y,0.5,B\n"
    slides = read_cohort(written(tmp_path, text)).slides
    assert [(slide.slide_id, slide.mpp, slide.patient_id) for slide in slides] == [
        ("1", 0.25, "A"),
        ("2", 0.5, "B"),
    ]


@pytest.mark.parametrize(
    "name", ["mpp_x", "MPP (um/px)", "microns per pixel", "um_per_px", "µm/px"]
)
def test_microns_per_pixel_in_another_column_are_refused(tmp_path, name):
    text = f"slide_id,path,label,{name}\n1,a,x,0.25\n2,b,y,0.25\n"
    message = rf"cohort\.csv: column {re.escape(repr(name))} is not read; microns per pixel belong"
    with pytest.raises(CohortError, match=message):
        read_cohort(written(tmp_path, text))
    assert (
        read_cohort(
            written(
                tmp_path,
                text.replace("label,", "label,mpp,").replace("x,", "x,1,").replace("y,", "y,1,"),
            )
        )
        .slides[0]
        .mpp
        == 1
    )


def test_ignored_columns_that_may_be_meant_for_known_ones_are_logged(tmp_path, caplog):
    text = "slide_id,path,label,patient,outline,stain,age\n1,a,x,A,,HE,3\n2,b,y,B,,HE,4\n"
    with caplog.at_level("WARNING"):
        read_cohort(written(tmp_path, text))
    assert caplog.messages == [
        "cohort.csv: ignored columns: 'patient' (did you mean patient_id?), 'outline' (did you "
        "mean outlines?)"
    ]


def test_the_parts_of_each_fold_are_read(tmp_path):
    text = "slide_id,path,label,Fold 1,fold_0\n1,a.svs,no,Test,train\n2,b.svs,yes,NA,val\n"
    first, second = read_cohort(written(tmp_path, text)).slides
    assert (first.fold_parts, second.fold_parts) == (("train", "test"), ("val", None))
    assert first.fold is None


def test_a_wrong_part_of_a_fold_is_refused(tmp_path):
    text = "slide_id,path,label,{}\n1,a.svs,no,{}\n2,b.svs,yes,{}\n"
    with pytest.raises(
        CohortError, match="row 2: fold_0 'learn' is no part; use train, val, test, "
    ):
        read_cohort(written(tmp_path, text.format("fold_0", "learn", "train")))
    with pytest.raises(CohortError, match="it has both split and fold_0; keep one"):
        read_cohort(written(tmp_path, text.format("fold_0,split", "train,train", "test,test")))


@pytest.mark.parametrize(
    ("header", "command"),
    [
        (
            "case_id,slide_id,label",
            "a table of CLAM: parfocal cohort convert {} --out conv",
        ),
        (",train,val,test", "a table of CLAM: parfocal cohort convert {} DATASET.csv --out"),
        ("PATIENT,isMSIH", "a table of STAMP: parfocal cohort convert {} SLIDES.csv --out"),
        ("PATIENT,FILENAME", "a table of STAMP: parfocal cohort convert {} CLINI.csv --out"),
        ("case_id,slide_id,x,fold_0", "a table of Patho-Bench: parfocal cohort convert {} --out"),
        ("Patient,Image", "a table: parfocal cohort convert {} --out converted.csv"),
    ],
)
def test_a_table_of_another_tool_is_refused_with_the_command_that_converts_it(
    tmp_path, header, command
):
    path = written(tmp_path, f"{header}\n1,2,3,4\n")
    with pytest.raises(CohortError) as refused:
        read_cohort(path)
    assert f" To convert {command.format(path)}" in str(refused.value)


def test_a_table_of_nothing_known_is_refused_without_a_command(tmp_path):
    with pytest.raises(CohortError, match=r"no columns slide_id, path, label \(found: a, b\)"):
        read_cohort(written(tmp_path, "a,b\n1,2\n"))
    with pytest.raises(CohortError) as refused:
        read_cohort(written(tmp_path, "a,b\n1,2\n"))
    assert "convert" not in str(refused.value)
