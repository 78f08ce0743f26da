import os
import sys

import pytest
from tests.slide.readers.dicom_files import write_dicom
from tests.slide.readers.vendor_files import paint, write_mirax

from parfocal.slide.listing import list_slides, may_be_slide, slides_in


def names(paths):
    return [path.name for path in paths]


def test_files_of_a_mirax_slide_are_no_slides(tmp_path):
    write_mirax(tmp_path / "a.mrxs", paint())
    write_dicom(tmp_path / "a" / "inside.dcm", paint())
    assert names(slides_in(tmp_path)) == ["a.mrxs"]


def test_a_series_is_named_by_its_folder_if_it_is_alone(tmp_path, picture):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_dicom(tmp_path / "one" / "a.dcm", picture)
    write_dicom(tmp_path / "two" / "a.dcm", picture)
    write_dicom(tmp_path / "two" / "b.dcm", picture, series="1.2.3.9")
    assert names(slides_in(tmp_path)) == ["one", "a.dcm", "b.dcm"]
    assert names(list_slides([tmp_path / "one"])) == ["one"]


def test_hidden_files_and_other_files_are_left_out(tmp_path):
    for name in ("b.svs", "a.tif", "._a.tif", "notes.txt", "label.png", ".hidden.svs"):
        (tmp_path / name).touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.svs").touch()
    assert names(slides_in(tmp_path)) == ["a.tif", "b.svs"]


def test_a_folder_without_a_slide_stays(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert slides_in(tmp_path) == []
    assert list_slides([tmp_path, tmp_path / "missing.svs"]) == [tmp_path, tmp_path / "missing.svs"]


@pytest.mark.skipif(sys.platform == "win32" or os.getuid() == 0, reason="permissions do not apply")
def test_a_folder_that_cannot_be_searched_stays(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "a.svs").touch()
    folder.chmod(0o400)
    assert list_slides([folder]) == [folder]
    folder.chmod(0o700)


def test_slides_are_recognized_by_their_content(tmp_path, plain, picture):
    assert may_be_slide(plain())
    assert may_be_slide(write_dicom(tmp_path / "a.dcm", picture))
    (tmp_path / "a.svs").write_text("<html>")
    assert not may_be_slide(tmp_path / "a.svs")
    assert not may_be_slide(tmp_path / "missing.svs")
