import re
import zipfile

import numpy as np
import pytest

from parfocal.dataset import CohortError
from parfocal.dataset.readers.asap import find_annotations, read_annotations

from .conftest import asap, square

SIZE = (100, 80)


def read(*annotations):
    return read_annotations("tumor_009", asap(*annotations).encode(), SIZE).polygons


@pytest.mark.parametrize("group", ["_0", "_1", "Tumor", "metastases"])
def test_these_groups_are_lesions(group):
    (lesion,) = read((group, square(10, 20, 30)))
    assert lesion.outer.tolist() == [[10, 20], [40, 20], [40, 50], [10, 50], [10, 20]]
    assert lesion.holes == ()


@pytest.mark.parametrize("group", ["_2", "Exclusion", "normal"])
def test_a_hole_is_cut_out_of_the_lesion_around_it(group):
    other, around = ("_0", square(50, 10, 10)), ("_0", square(10, 10, 30))
    lesions = read(other, around, (group, square(20, 20, 5)), (group, square(80, 60, 5)))
    assert [len(lesion.holes) for lesion in lesions] == [0, 1]
    assert lesions[1].holes[0][0].tolist() == [20, 20]


def test_corners_are_sorted_by_their_order():
    drawn = asap(("_0", square(10, 10, 10)))
    lines = re.findall(r"<Coordinate O[^>]*>", drawn)
    shuffled = drawn.replace("".join(lines), "".join(np.roll(lines, 2)))
    assert shuffled != drawn
    (lesion,) = read_annotations("tumor_009", shuffled.encode(), SIZE).polygons
    assert lesion.outer[0].tolist() == [10, 10]


def test_annotations_without_area_or_group_are_ignored(caplog):
    assert read(("_0", [(1, 1), (2, 2)]), ("None", square(1, 1, 5))) == ()
    assert "tumor_009: ignored an annotation of 2 points, without area" in caplog.text


def test_a_line_along_the_edge_may_lie_a_little_outside():
    assert len(read(("_0", [(-0.5, 0), (100.5, 0), (50, 80.5)]))) == 1


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (asap(("_0", square(90, 10, 30))), "reaches to x=120, y=40 but the slide is 100 x 80 pix"),
        (asap(("_0", square(-20, 10, 30))), "The annotations belong to another slide"),
        (asap(("DCIS", square(1, 1, 5))), "unknown annotation group 'dcis' (known: _0, _1, tumor"),
        ("<Annotations></Annotations>", "its annotations are <Annotations> XML, not ASAP XML"),
        ("<ASAP_Annotations><Annot", "its annotations are not ASAP XML (ParseError: "),
        (
            asap(("_0", square(1, 1, 5)), ("_0", square(9, 7, 5))).replace('X="9"', 'X="NaN"', 1),
            "annotation 2 (Annotation 1), coordinate 1 is not a finite number (X=NaN, Y=7). C",
        ),
        (asap(("_0", square(1, 2, 5))).replace('Y="2"', 'Y="inf"', 1), "coordinate 1 is not a fin"),
        (asap(("_0", square(1, 2, 5))).replace('Order="1"', 'Order="nan"'), "coordinate 2 is not"),
        (asap(("_0", [(1, 2)])).replace('X="1"', 'X="left"'), "not ASAP XML (ValueError: "),
        (asap(("_0", [(1, 2)])).replace("PartOfGroup", "Part"), "(KeyError: 'PartOfGroup')"),
    ],
)
def test_annotations_of_another_slide_or_format_are_refused(xml, message):
    with pytest.raises(CohortError, match=re.escape(message)) as caught:
        read_annotations("tumor_009", xml.encode(), SIZE)
    assert str(caught.value).startswith("tumor_009: ")


def test_annotations_are_found_in_folders_and_in_zip_files(tmp_path, put):
    put(tmp_path / "annotations" / "Tumor_001.xml", "one")
    put(tmp_path / "elsewhere" / "tumor_003.xml", "no")
    with zipfile.ZipFile(tmp_path / "lesion_annotations.zip", "w") as packed:
        packed.writestr("lesion_annotations/tumor_002.xml", "two")
        packed.writestr("lesion_annotations/readme.txt", "no")
    assert find_annotations(tmp_path) == {"tumor_001": b"one", "tumor_002": b"two"}


def test_a_broken_zip_file_is_refused(tmp_path, put):
    put(tmp_path / "lesion_annotations.zip", "PK half")
    with pytest.raises(
        CohortError, match=r"lesion_annotations\.zip: not a complete zip file\. Downlo"
    ):
        find_annotations(tmp_path)
