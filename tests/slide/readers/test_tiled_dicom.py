"""DICOM slides of JPEG frames, which are read directly."""

import struct

import numpy as np
import pytest
from tests.slide.readers.dicom_files import encapsulate, write_dicom, write_jpeg_dicom

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.readers.tiled_dicom import TiledDicomScan, open_dicom
from parfocal.slide.slide import Box, open_slide

JPEG_2000 = "1.2.840.10008.1.2.4.91"


@pytest.fixture
def series(tmp_path, picture):
    """Write a series of two levels: one with a table of offsets, one without."""
    write_jpeg_dicom(tmp_path / "level-0.dcm", picture)
    return write_jpeg_dicom(tmp_path / "level-1.dcm", picture[::2, ::2], mpp=1.0, table=False)


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "RGB"])
@pytest.mark.parametrize("table", [True, False])
def test_pixels_are_those_of_openslide(tmp_path, picture, photometric, table):
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture, photometric=photometric, table=table)
    direct, other = open_dicom(path, CostMeter()), OpenSlideScan(path)
    assert isinstance(direct, TiledDicomScan)
    assert (direct.levels, direct.metadata.mpp) == (other.levels, other.metadata.mpp)
    for region in ((0, 0, 0, 440, 304), (0, 64, 64, 64, 64), (0, 33, 70, 201, 9)):
        assert (direct.read_level(*region) == other.read_level(*region)).all()
    direct.close()
    other.close()


def test_the_levels_lie_in_several_files(series, picture):
    with open_slide(series) as slide:
        assert [level.downsample for level in slide.levels] == [1.0, 2.0]
        assert slide.mpp_source == "file: PixelSpacing"
        for mpp, step in ((0.5, 1), (1.0, 2)):
            read = slide.read(Box(0, 0, *slide.size), mpp).astype(int)
            assert np.abs(read - picture[::step, ::step]).mean() < 4  # JPEG loses a little
        cost, sizes = slide.cost_meter.total(), [p.stat().st_size for p in series.parent.iterdir()]
        assert cost.file_bytes == sum(sizes)
        assert cost.bytes_read is not None
        assert 0.5 * sum(sizes) < cost.bytes_read <= sum(sizes)


def test_a_frame_may_have_several_fragments(tmp_path, picture):
    def in_parts(frames):
        halves = [(frame[:200], frame[200:]) for frame in frames]
        starts, position, items = [], 0, b""
        for pair in halves:
            starts.append(position)
            for part in pair:
                padded = part + bytes(len(part) % 2)
                items += b"\xfe\xff\x00\xe0" + struct.pack("<I", len(padded)) + padded
                position += 8 + len(padded)
        table = struct.pack(f"<{len(starts)}I", *starts)
        head = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(table)) + table
        return head + items + b"\xfe\xff\xdd\xe0" + bytes(4)

    frames = []
    whole = write_jpeg_dicom(
        tmp_path / "whole.dcm", picture, frame=lambda frame: frames.append(frame) or frame
    )
    parts = write_dicom(
        *(tmp_path / "parts.dcm", picture),
        syntax="1.2.840.10008.1.2.4.50",
        photometric="YBR_FULL_422",
        series="1.2.3.9",
        encapsulated=in_parts(frames),
    )
    with open_slide(whole) as expected, open_slide(parts) as slide:
        box = Box(0, 0, *slide.size)
        assert (slide.read(box, 0.5) == expected.read(box, 0.5)).all()


def test_a_damaged_frame_is_refused_with_its_place(series):
    damaged = bytearray(series.with_name("level-0.dcm").read_bytes())
    at = damaged.rindex(b"\xff\xda") + 300
    damaged[at : at + 4] = b"\xff\xd9\xff\xd9"
    series.with_name("level-0.dcm").write_bytes(damaged)
    with open_slide(series) as slide:
        slide.read(Box(0, 0, 64, 64), 0.5)
        with pytest.raises(SlideError, match=r"level-0.dcm: damaged at x=384, y=256 \(64 x 64 px"):
            slide.read(Box(384, 256, 56, 48), 0.5)


def test_spare_bytes_before_the_end_of_a_frame_are_noted(tmp_path, picture):
    path = write_jpeg_dicom(
        tmp_path / "a.dcm", picture, frame=lambda frame: frame[:-2] + bytes(8) + frame[-2:]
    )
    with open_slide(path) as slide:
        slide.read(Box(0, 0, 64, 64), 0.5)
        assert slide.notes == ("1 tile has spare bytes before its end; no pixel is lost",)


# --- what cannot be ---


def items(*frames: bytes, has_table: bool = True) -> bytes:
    return encapsulate(list(frames), has_table=has_table)


def renumbered(content: bytes, number: int, offset: int) -> bytes:
    """Return encapsulated frames with another entry of the table of offsets."""
    position = 8 + 4 * number
    return content[:position] + struct.pack("<I", offset) + content[position + 4 :]


FRAMES = [bytes((0xFF, 0xD8)) + bytes(98)] * 35
WHOLE = encapsulate(FRAMES)
UNTABLED = encapsulate(FRAMES, has_table=False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (items(*FRAMES[:34]), "frames of this DICOM file are 35, but its table of offsets has 34"),
        (items(*FRAMES[:34], has_table=False), "are 35 by its header, but it stores 34"),
        (items(*FRAMES, FRAMES[0], has_table=False), "are 35 by its header, but it stores more"),
        (renumbered(WHOLE, 0, 2), "overlap by its table of offsets"),
        (renumbered(WHOLE, 5, 2**30), "overlap by its table of offsets"),
        (renumbered(WHOLE, 34, 2**30), "are truncated: 1 of 35 lie beyond its end"),
        (WHOLE[:-8], "are truncated: the last lies beyond its end"),
        (WHOLE[:-200], "are truncated: "),
        (UNTABLED[:-200], "are truncated: "),
        (WHOLE[:-8] + bytes(8), "do not follow one another at byte"),
        (UNTABLED[:8] + bytes(8) + UNTABLED[16:], "do not follow one another at byte"),
        (
            b"\xfe\xff\x00\xe0" + struct.pack("<I", 6) + WHOLE[8:],
            "35, but its table of offsets has",
        ),
        (bytes(100), "do not begin with a table of offsets"),
    ],
)
def test_frames_that_cannot_be_are_refused(tmp_path, picture, content, reason):
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture)
    head = path.read_bytes()
    path.write_bytes(head[: head.index(b"\xe0\x7f\x10\0OB") + 12] + content)
    with pytest.raises(SlideError, match=f"a.dcm: .*{reason}.* Copy it again from its source"):
        open_slide(path)


def test_an_offset_inside_another_frame_is_refused_when_it_is_read(tmp_path, picture):
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture)
    content = bytearray(path.read_bytes())
    start = content.index(b"\xe0\x7f\x10\0OB") + 12 + 8
    (second,) = struct.unpack_from("<I", content, start + 4)
    struct.pack_into("<I", content, start + 4, second + 20)
    path.write_bytes(content)
    with (
        open_slide(path) as slide,
        pytest.raises(SlideError, match="does not lie where the table of offsets says"),
    ):
        slide.read(Box(64, 0, 64, 64), 0.5)


def test_the_colors_of_the_header_are_those_of_the_jpeg_data(tmp_path, picture):
    marker = b"Adobe\x00\x64\x00\x00\x00\x00"
    path = write_jpeg_dicom(
        *(tmp_path / "a.dcm", picture),
        photometric="RGB",
        frame=lambda frame: frame.replace(marker + b"\0", marker + b"\1"),
    )
    message = "a.dcm: the DICOM header says RGB, but the JPEG data is YCbCr. Export it again"
    with pytest.raises(SlideError, match=message):
        open_slide(path)


def test_rgb_frames_with_a_jfif_header_are_left_to_openslide(tmp_path, picture):
    jfif = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    path = write_jpeg_dicom(
        *(tmp_path / "a.dcm", picture),
        photometric="RGB",
        frame=lambda frame: frame[:2] + jfif + frame[2:],
    )
    scan = open_dicom(path, CostMeter())
    assert isinstance(scan, OpenSlideScan)
    scan.close()


def test_levels_of_one_slide_agree(tmp_path, picture):
    first = write_jpeg_dicom(tmp_path / "level-0.dcm", picture)
    second = tmp_path / "level-1.dcm"
    cases = {
        "the DICOM series holds the level of 440 x 304 px twice, in": (picture, 0.5),
        "a level of 220 x 100 px does not have the shape of level 0": (
            picture[::2, ::2][:100],
            1.0,
        ),
        "220 x 152 px of 4 um are not the area of level 0, 440 x": (picture[::2, ::2], 4.0),
    }
    for message, (pixels, mpp) in cases.items():
        write_jpeg_dicom(second, pixels, mpp=mpp)
        with pytest.raises(SlideError, match=message):
            open_slide(first)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"meta_class": "1.2.3"}, "says that the file is of two kinds, 1.2.3 and 1.2.840"),
        ({"paths": 2}, "says 35 tiles of 64 x 64 px, but 440 x 304 px need 70"),
        ({"paths": 0}, "says 1 focal planes and 0 optical paths"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, picture, changed, message):
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture, **changed)
    with pytest.raises(SlideError, match=message):
        open_slide(path)


def test_uncompressed_pixels_have_the_length_that_they_need(tmp_path, picture):
    path = write_dicom(tmp_path / "a.dcm", picture, data=bytes(5000))
    with pytest.raises(SlideError, match=r"says 35 tiles of 430080 bytes in all, but stores 5000"):
        open_slide(path)


def test_a_spacing_that_is_no_number_is_none(tmp_path, picture):
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture, spacing="0.0005\\0,0005")
    with pytest.raises(SlideError, match=r"a.dcm: the file records no microns per pixel"):
        open_slide(path)


def test_a_damaged_neighbor_matters_to_a_series_alone(tmp_path, picture):
    single = write_jpeg_dicom(tmp_path / "single.dcm", picture, series="1.2.3.9")
    (tmp_path / "bad.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 100)
    open_slide(single).close()
    write_jpeg_dicom(tmp_path / "level-0.dcm", picture)
    path = write_jpeg_dicom(tmp_path / "level-1.dcm", picture[::2, ::2], mpp=1.0)
    with pytest.raises(SlideError, match=r"bad.dcm: the header of this DICOM file is damaged"):
        open_slide(path)
