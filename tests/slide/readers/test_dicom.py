import shutil
import struct
import sys
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
from tests.slide.readers.dicom_files import element, write_dicom

from parfocal.slide.errors import SlideError
from parfocal.slide.identity import file_fingerprint, slide_id, unique_slides
from parfocal.slide.readers.dicom import dicom_instances
from parfocal.slide.readers.dicom_header import read_header
from parfocal.slide.slide import Box, open_slide

JPEG_2000 = "1.2.840.10008.1.2.4.91"


@pytest.fixture
def series(tmp_path, picture):
    """Write a series of two levels in a folder of its own."""
    folder = tmp_path / "slide.7"
    folder.mkdir()
    write_dicom(folder / "level-0.dcm", picture)
    write_dicom(folder / "level-1.dcm", picture[::2, ::2], mpp=1.0)
    return folder


def test_a_series_is_one_slide_however_it_is_given(series, picture):
    for path in (series, series / "level-0.dcm", series / "level-1.dcm"):
        with open_slide(path) as slide:
            assert (slide.id, slide.vendor, slide.mpp) == ("slide.7", "dicom", 0.5)
            assert [level.downsample for level in slide.levels] == [1.0, 2.0]
            assert (slide.read(Box(0, 0, *slide.size), 0.5) == picture).all()


def test_a_series_that_is_named_several_times_is_one_slide(series, tmp_path, plain):
    instances, other = sorted(series.glob("*.dcm")), plain()
    assert unique_slides([*instances, other, series]) == [instances[0], other]
    assert unique_slides([series, *instances]) == [series]
    assert unique_slides([other, tmp_path / "missing.svs"]) == [other, tmp_path / "missing.svs"]


def test_other_files_in_the_folder_do_not_matter(series):
    before = file_fingerprint(series)
    (series / "thumbnails").mkdir()
    (series / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (series / "notes.txt").write_text("no slide")
    (series / "DICOMDIR").write_bytes(bytes(200))
    with open_slide(series) as slide:
        assert len(slide.levels) == 2
        assert slide.fingerprint == before
    for instance in series.glob("*.dcm"):
        assert file_fingerprint(instance) == before


def test_the_fingerprint_depends_on_all_instances(series):
    before = file_fingerprint(series)
    with (series / "level-1.dcm").open("ab") as file:
        file.write(b"\0\0")
    assert file_fingerprint(series) != before


def test_files_that_are_called_by_their_uid_are_a_series(tmp_path, picture):
    folder = tmp_path / "slide.7"
    folder.mkdir()
    write_dicom(folder / "1.2.840.1", picture)
    write_dicom(folder / "1.2.840.2", picture[::2, ::2], mpp=1.0)
    with open_slide(folder / "1.2.840.2") as slide:
        assert (slide.id, len(slide.levels)) == ("slide.7", 2)


def test_a_single_file_is_called_like_itself(tmp_path, picture):
    write_dicom(tmp_path / "a.dcm", picture)
    write_dicom(tmp_path / "b.dcm", picture, series="1.2.3.9")
    assert (slide_id(tmp_path / "a.dcm"), slide_id(tmp_path / "b.dcm")) == ("a", "b")
    assert unique_slides(sorted(tmp_path.glob("*.dcm"))) == sorted(tmp_path.glob("*.dcm"))


def test_series_that_share_a_folder_are_called_by_their_uid(series, picture):
    write_dicom(series / "other-0.dcm", picture, series="1.2.3.9")
    write_dicom(series / "other-1.dcm", picture[::2, ::2], series="1.2.3.9", mpp=1.0)
    assert slide_id(series / "level-1.dcm") == "1.2.3.4"
    assert slide_id(series / "other-0.dcm") == "1.2.3.9"
    message = r"holds 2 DICOM slides. Name one of level-0.dcm, other-0.dcm"
    with pytest.raises(SlideError, match=message):
        dicom_instances(series)


def test_a_folder_without_a_slide_is_refused(tmp_path):
    with pytest.raises(SlideError, match=r"this folder holds nothing\. Name slide files"):
        open_slide(tmp_path)
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(SlideError, match=r"this folder holds no slide\. Name slide files"):
        open_slide(tmp_path)


def test_a_dicom_file_of_another_kind_is_refused(tmp_path, picture):
    path = write_dicom(tmp_path / "a.dcm", picture, class_uid="1.2.840.10008.5.1.4.1.1.2")
    with pytest.raises(SlideError, match=r"a.dcm: a DICOM file that is not a whole-slide image"):
        open_slide(path)


def test_a_label_alone_is_refused(tmp_path, picture):
    path = write_dicom(tmp_path / "a.dcm", picture, kind="ORIGINAL\\PRIMARY\\LABEL\\NONE")
    with pytest.raises(SlideError, match=r"holds a label or an overview, but no level"):
        open_slide(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": 0}, r"a.dcm: the DICOM header says tiles of 64 x 0 px. Copy it again"),
        ({"rows": 32}, r"says 35 tiles of 64 x 32 px, but 440 x 304 px need 70"),
        ({"frames": 34}, r"says 34 tiles of 64 x 64 px, but 440 x 304 px need 35"),
        ({"frames": 2**30}, r"says 1073741824 tiles"),
        ({"syntax": "1.2.840.10008.1.2.4.70"}, r"are encoded as lossless JPEG .* nor wsidicom"),
        ({"syntax": "1.2.3"}, r"are encoded in an unknown way \(1.2.3\), which neither"),
    ],
)
def test_a_header_that_cannot_be_is_refused_before_openslide_sees_it(
    tmp_path, picture, monkeypatch, changed, message
):
    monkeypatch.setattr("openslide.OpenSlide.__init__", lambda *_: pytest.fail("OpenSlide"))
    path = write_dicom(tmp_path / "a.dcm", picture, **changed)
    with pytest.raises(SlideError, match=message):
        open_slide(path)


@pytest.mark.parametrize("photometric", ["YBR_ICT", "YBR_RCT"])
@pytest.mark.parametrize("transform", [0, 1])
def test_colors_that_the_jpeg_2000_data_contradicts_are_refused(
    tmp_path, picture, photometric, transform
):
    codestream = b"\xff\x4f\xff\x51\0\x04\0\0\xff\x52\0\x0c\0\0\0\x01" + bytes([transform])
    path = write_dicom(
        *(tmp_path / "a.dcm", picture),
        syntax=JPEG_2000,
        photometric=photometric,
        data=codestream + bytes(200),
    )
    message = f"the DICOM header says {photometric}, but the JPEG 2000 data is not transformed"
    if transform:  # the pixels of this file are damaged
        message = "a.dcm: damaged at x=0, y=0"
    with pytest.raises(SlideError, match=message), open_slide(path) as slide:
        slide.read(Box(0, 0, 64, 64), 0.5)


@pytest.mark.parametrize("content", [b"", b"\x08\0\x16\0UI\xff\xff", bytes(100), b"\xff" * 100])
def test_a_damaged_header_is_refused(tmp_path, content):
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(128) + b"DICM" + content)
    with pytest.raises(SlideError, match=r"a.dcm: (the header of this DICOM file is damaged|a DI)"):
        open_slide(path)


def test_sequences_without_a_length_are_skipped(tmp_path, picture):
    path = write_dicom(tmp_path / "a.dcm", picture)
    before = read_header(path)
    undefined = struct.pack("<I", 0xFFFFFFFF)
    item = b"\xfe\xff\x00\xe0" + undefined + element(0x00080100, "SH", "T-28000")
    ends = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    nested = b"\x08\0\x15\0SQ\0\0" + undefined + item + ends
    content = path.read_bytes()
    place = content.index(b"\x08\0\x16\0UI")
    path.write_bytes(content[:place] + nested + content[place:])
    assert before.pixels is not None
    moved = replace(before.pixels, position=before.pixels.position + len(nested))
    assert read_header(path) == replace(before, pixels=moved)


def test_sequences_that_do_not_end_are_refused(tmp_path, picture):
    path = write_dicom(tmp_path / "a.dcm", picture)
    content = path.read_bytes()
    place = content.index(b"\x08\0\x16\0UI")
    deep = (b"\x08\0\x15\0SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff") * 100
    path.write_bytes(content[:place] + deep + content[place:])
    with pytest.raises(SlideError, match=r"header of this DICOM file is damaged \(its sequences"):
        open_slide(path)


def test_a_real_series_is_one_slide(real, tmp_path):
    folder = tmp_path / "series"
    shutil.copytree(real("../cases/dicom-series"), folder)
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "export").mkdir()
    fingerprints = set()
    for path in (folder, *sorted(folder.glob("*.dcm"))):
        with open_slide(path) as slide:
            assert (slide.id, slide.mpp, len(slide.levels)) == ("series", pytest.approx(0.499), 3)
            fingerprints.add(slide.fingerprint)
    assert len(fingerprints) == 1


def test_real_data_that_is_not_transformed_is_refused(real):
    with pytest.raises(SlideError, match=r"level-1.dcm: the DICOM header says YBR_ICT, but the"):
        open_slide(real("../cases/dicom-ybr-ict"))


def test_a_real_slide_of_one_file_is_read(real):
    with open_slide(real("slides/camelyon16-multiframe.dcm")) as slide:
        assert (slide.id, slide.size) == ("camelyon16-multiframe", (1152, 700))
        assert np.ptp(slide.read(Box(0, 0, 700, 700), slide.mpp)) > 100


# --- wsidicom ---


def transcode(source, path, syntax, encode):
    """Write a copy of a DICOM file with its pixels in another encoding."""
    pydicom = pytest.importorskip("pydicom")
    encaps = pytest.importorskip("pydicom.encaps")
    content = pydicom.dcmread(source)
    frames = encaps.generate_frames(content.PixelData, number_of_frames=content.NumberOfFrames)
    content.PixelData = encaps.encapsulate([encode(imagecodecs.jpeg_decode(f)) for f in frames])
    content.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    content.PhotometricInterpretation = "RGB"
    content.save_as(path)
    return path


@pytest.mark.parametrize(
    ("number", "encode"),
    [
        ("80", imagecodecs.jpegls_encode),
        ("110", lambda tile: imagecodecs.jpegxl_encode(tile, lossless=True)),
        pytest.param(
            *("201", getattr(imagecodecs, "htj2k_encode", None)),
            marks=pytest.mark.skipif(
                not hasattr(imagecodecs, "htj2k_encode"), reason="needs a newer imagecodecs"
            ),
        ),
    ],
)
def test_encodings_that_openslide_does_not_decode_are_read_by_wsidicom(
    real, tmp_path, number, encode
):
    pytest.importorskip("wsidicom")
    source = tmp_path / "whole" / "a.dcm"
    source.parent.mkdir()
    shutil.copy(real("../cases/dicom-series/level-2.dcm"), source)
    path = transcode(source, tmp_path / "a.dcm", f"1.2.840.10008.1.2.4.{number}", encode)
    with open_slide(source) as whole, open_slide(path) as slide:
        assert (slide.size, slide.mpp) == (whole.size, pytest.approx(whole.mpp))
        box = Box(37, 51, 300, 280)
        assert (slide.read(box, slide.mpp) == whole.read(box, whole.mpp)).all()


def test_without_wsidicom_the_message_says_how_to_install_it(tmp_path, picture, monkeypatch):
    monkeypatch.setitem(sys.modules, "wsidicom", None)
    path = write_dicom(tmp_path / "a.dcm", picture, syntax="1.2.840.10008.1.2.5")
    with pytest.raises(
        SlideError, match=r"wsidicom does. Install it with `pip install 'parfocal\[d"
    ):
        open_slide(path)


def test_the_error_of_wsidicom_is_given(tmp_path, picture):
    pytest.importorskip("wsidicom")
    path = write_dicom(tmp_path / "a.dcm", picture, syntax="1.2.840.10008.1.2.5")
    with pytest.raises(SlideError, match=r"a.dcm: wsidicom cannot open this DICOM slide \("):
        open_slide(path)
