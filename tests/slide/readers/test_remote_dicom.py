"""DICOM slides on a DICOMweb server and in an object store: the pixels of the local files."""

import re

import numpy as np
import pytest
from tests.slide.readers.dicom_files import write_dicom, write_jpeg_dicom

from dicomweb_server import serve_dicomweb
from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.identity import file_fingerprint, slide_id
from parfocal.slide.readers.remote_dicom import open_dicomweb, open_folder
from parfocal.slide.readers.tiled_dicom import open_dicom
from parfocal.slide.slide import Box, open_slide
from parfocal.slide.sources import dicomweb
from parfocal.slide.sources.dicomweb import split_parts
from parfocal.slide.sources.errors import RemoteError
from parfocal.slide.sources.url import SlideUrl

REGIONS = ((0, 0, 0, 440, 304), (0, 64, 64, 64, 64), (0, 33, 70, 201, 9), (1, 0, 0, 220, 152))


@pytest.fixture
def folder(tmp_path, picture):
    """Write a series of two levels."""
    series = tmp_path / "series"
    series.mkdir()
    write_jpeg_dicom(series / "level-0.dcm", picture)
    write_jpeg_dicom(series / "level-1.dcm", picture[::2, ::2], mpp=1.0)
    return series


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(dicomweb, "FIRST_WAIT_S", 0.0)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_series_on_a_server_has_the_pixels_of_its_files(folder, is_chunked):
    local = open_dicom(folder / "level-0.dcm", CostMeter())
    with serve_dicomweb(folder, is_chunked=is_chunked) as served:
        meter = CostMeter()
        scan = open_dicomweb(SlideUrl(served.address), meter)
        assert scan.levels == local.levels
        assert scan.metadata == local.metadata
        for region in REGIONS:
            assert (scan.read_level(*region) == local.read_level(*region)).all()
        assert meter.total().requests == len(served.paths)
        scan.close()
    local.close()


def test_only_the_frames_of_a_region_are_requested(folder):
    with serve_dicomweb(folder) as served:
        meter = CostMeter()
        scan = open_dicomweb(SlideUrl(served.address), meter)
        scan.read_level(0, 64, 64, 128, 64)
        scan.close()
        asked = [path.partition("/frames/")[2] for path in served.paths[1:]]
        # Tiles 1 and 2 of the second row of 7; frames are numbered from 1.
        assert sorted(",".join(asked).split(",")) == ["10", "9"]
        assert all('type="image/jpeg"' in each for each in served.accepts[1:])
        before = meter.total().bytes_read
        assert before is not None
        assert 0 < before < 30_000


def test_regions_are_fetched_together(folder):
    with serve_dicomweb(folder) as served:
        scan = open_dicomweb(SlideUrl(served.address), CostMeter())
        regions = [(x, y, 64, 64) for x in range(0, 384, 64) for y in range(0, 256, 64)]
        assert scan.read_ahead(0, regions) == len(regions)
        for region in regions:
            scan.read_level(0, *region)
        assert len(served.paths) == 1 + 8  # one request for each of the connections
        scan.close()


def test_it_is_a_slide_like_any_other(folder, picture):
    with serve_dicomweb(folder) as served, open_slide(served.address) as slide:
        assert (slide.id, slide.mpp) == ("1.2.3.4", 0.5)
        read = slide.read(Box(0, 0, *slide.size), 1.0).astype(int)
        assert np.abs(read - picture[::2, ::2]).mean() < 4
        assert re.fullmatch("[0-9a-f]{32}", slide.fingerprint)
        assert slide.fingerprint == file_fingerprint(SlideUrl(served.address))


def test_failures_that_pass_are_repeated(folder):
    local = open_dicom(folder / "level-0.dcm", CostMeter())
    faults = {0: "503", 1: "drop", 3: "429", 4: "drop"}
    with serve_dicomweb(folder, fault=lambda number: faults.get(number, "")) as served:
        scan = open_dicomweb(SlideUrl(served.address), CostMeter())
        assert (scan.read_level(*REGIONS[0]) == local.read_level(*REGIONS[0])).all()
        scan.close()
    local.close()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("404", "answered 404. Check the address"),
        ("406", "sends no frames as they are stored"),
        ("503", "failed 8 times in a row"),
        ("short", "frames were requested, and it sent"),
        ("single", "its answer is not multipart"),
        ("cut", "its answer ends early"),
        ("png", "are not JPEG"),
    ],
)
def test_frames_that_do_not_come_are_an_error_in_one_line(folder, fault, message):
    def after_metadata(number):
        return fault if number else ""

    with serve_dicomweb(folder, fault=after_metadata) as served:
        scan = open_dicomweb(SlideUrl(served.address), CostMeter())
        with pytest.raises(RemoteError, match=message) as raised:
            scan.read_level(0, 0, 0, 440, 304)
        assert "\n" not in str(raised.value)
        scan.close()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"00200010": None, "00080016": {"vr": "UI", "Value": ["1.2"]}}, "no whole-slide image"),
        ({"00083002": {"vr": "UI", "Value": ["1.2.840.10008.1.2.4.90"]}}, "only JPEG is read"),
        ({"00209311": {"vr": "CS", "Value": ["TILED_SPARSE"]}}, "are not all stored in order"),
        ({"00280010": {"vr": "US", "Value": ["many"]}}, "metadata of this DICOM instance is dama"),
        ({"52009229": {"vr": "SQ", "Value": ["no item"]}}, "metadata of this DICOM instance is d"),
        ({"00280008": {"vr": "IS", "Value": [7]}}, "the DICOM header says 7 tiles"),
        ({"00080008": {"vr": "CS", "Value": ["A", "B", "LABEL"]}}, "holds a label or an overview"),
        ({"00280010": {"vr": "US", "Value": [-64]}}, "the DICOM header says tiles of"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(folder, changed, message):
    with (
        serve_dicomweb(folder, changed=changed) as served,
        pytest.raises(SlideError, match=message),
    ):
        open_dicomweb(SlideUrl(served.address), CostMeter())


def test_a_server_that_asks_for_a_password_gets_it(folder):
    with serve_dicomweb(folder, authorization="Basic YW5uYTpzZWNyZXQ=") as served:
        with pytest.raises(RemoteError, match=r"answered 401. It requires credentials"):
            open_dicomweb(SlideUrl(served.address), CostMeter())
        url = SlideUrl(served.address.replace("://", "://anna:secret@"))
        scan = open_dicomweb(url, CostMeter())
        assert scan.read_level(1, 0, 0, 8, 8).shape == (8, 8, 3)
        scan.close()
        assert "secret" not in str(url)


def test_closing_releases_who_waits(folder):
    with serve_dicomweb(folder, latency_s=0.0, fault=lambda n: "503" if n else "") as served:
        scan = open_dicomweb(SlideUrl(served.address), CostMeter())
        scan.read_ahead(0, [(0, 0, 64, 64)])
        scan.cancel()
        with pytest.raises(RemoteError, match=r"reading was stopped|failed 8 times"):
            scan.read_level(0, 0, 0, 64, 64)
        scan.close()


def test_parts_may_hold_line_breaks_and_marks():
    content = b"--b\r\nContent-Type: x\r\n\r\n\r\n--\r\n\xff\r\n--b\r\n\r\n2\r\n--b--"
    assert split_parts('multipart/related; boundary="b"', content) == [b"\r\n--\r\n\xff", b"2"]
    with pytest.raises(ValueError, match="is not multipart"):
        split_parts("multipart/related", content)


@pytest.fixture
def stored(folder):
    """Copy the series to fsspec's store in memory, and return the URL of the folder."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe_file(f"/bucket/S-7/{path.name}", path.read_bytes())
    files.pipe_file("/bucket/S-7/readme.txt", b"no DICOM")
    yield SlideUrl("memory://bucket/S-7/")
    files.rm("/bucket", recursive=True)


def test_the_files_in_a_folder_of_a_store_are_a_slide(folder, stored):
    local = open_dicom(folder / "level-0.dcm", CostMeter())
    meter = CostMeter()
    scan = open_folder(stored, meter)
    assert (scan.levels, scan.metadata) == (local.levels, local.metadata)
    for region in REGIONS:
        assert (scan.read_level(*region) == local.read_level(*region)).all()
    sizes = sum(path.stat().st_size for path in folder.iterdir())
    assert meter.total().file_bytes == sizes
    scan.close()
    local.close()


def test_a_folder_has_the_fingerprint_of_its_files(folder, stored):
    assert slide_id(stored) == "S-7"
    with open_slide(stored) as slide:
        assert slide.fingerprint == file_fingerprint(folder) == file_fingerprint(stored)


def test_one_file_of_several_is_refused(stored):
    with pytest.raises(RemoteError, match=r"this is one of them. Give the folder in the store"):
        open_slide(SlideUrl(f"{stored.secret_url}level-0.dcm"))


def test_a_folder_without_a_slide_or_with_two_is_refused(folder, stored, picture):
    files = pytest.importorskip("fsspec").filesystem("memory")
    other = write_dicom(folder.parent / "other.dcm", picture, series="1.2.9")
    files.pipe_file("/bucket/S-7/other.dcm", other.read_bytes())
    with pytest.raises(RemoteError, match="holds 2 DICOM slides"):
        open_folder(stored, CostMeter())
    files.pipe_file("/bucket/empty/readme.txt", b"")
    with pytest.raises(RemoteError, match=r"holds no DICOM slides|empty"):
        open_folder(SlideUrl("memory://bucket/empty/"), CostMeter())
    with pytest.raises(RemoteError, match="no such folder"):
        open_folder(SlideUrl("memory://bucket/none/"), CostMeter())


def test_uncompressed_pixels_are_only_read_from_local_files(folder, stored, picture):
    files = pytest.importorskip("fsspec").filesystem("memory")
    files.rm("/bucket/S-7", recursive=True)
    raw = write_dicom(folder.parent / "raw.dcm", picture)
    files.pipe_file("/bucket/S-7/raw.dcm", raw.read_bytes())
    with pytest.raises(RemoteError, match=r"only JPEG is read. Retrieve all files"):
        open_folder(stored, CostMeter())
