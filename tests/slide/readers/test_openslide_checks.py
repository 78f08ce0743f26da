"""Slides of several files: whole ones are read, damaged ones never reach OpenSlide."""

import re
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
from tests.slide.readers.vendor_files import (
    MPP,
    SLIDE_ID,
    czi_entry,
    mirax_index,
    paint,
    write_czi,
    write_mirax,
    write_vms,
    write_vmu,
)

from parfocal.slide.errors import SlideError
from parfocal.slide.readers import probe as probe_module
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.readers.probe import probe
from parfocal.slide.slide import open_slide

Writer = Callable[[Path, np.ndarray], Path]
WRITERS: dict[str, Writer] = {
    "a.mrxs": write_mirax,
    "a.vms": write_vms,
    "a.vmu": write_vmu,
    "a.czi": write_czi,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_whole_slide_is_read(tmp_path, name):
    pixels = paint()
    scan = OpenSlideScan(WRITERS[name](tmp_path / name, pixels))
    assert scan.metadata.mpp == pytest.approx(MPP)
    assert (scan.levels[0].width, scan.levels[0].height) == (384, 256)
    read = scan.read_level(0, 0, 0, 384, 256).astype(int)
    scan.close()
    assert np.abs(read - pixels).mean() < 1  # JPEG loses a little


def refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return why a slide is refused without OpenSlide, in this process or another."""
    monkeypatch.setattr(openslide.OpenSlide, "__init__", lambda *_: pytest.fail("OpenSlide"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a child process"))
    with pytest.raises(SlideError) as caught:
        OpenSlideScan(path)
    message = str(caught.value)
    assert message.endswith("Copy it again from its source, with all files that belong to it.")
    return message


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8-sig")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8-sig")


MIRAX = [
    ("FILE_0 = Data0000.dat", "FILE_0 = Data0009.dat", r"its file 'Data0009.dat' is missing"),
    ("FILE_COUNT = 1", "FILE_COUNT = 2000000000", r"FILE_COUNT of \[DATAFILE\] is '2000000000'"),
    ("INDEXFILE = Index.dat", "INDEXFILE = ", r"its file '' is missing or empty"),
    ("IMAGENUMBER_X = 6", "IMAGENUMBER_X = 0", r"IMAGENUMBER_X of \[GENERAL\] is '0', not a num"),
    ("IMAGENUMBER_X = 6", "IMAGENUMBER_X = 70000", r"IMAGENUMBER_X .* is '70000', not"),
    ("IMAGENUMBER_Y = 4", "IMAGENUMBER_Y = 2", r"Index.dat is damaged: level 0 has an impossible"),
    ("= 64", "= 65000", r"\[LAYER_0_LEVEL_0_SECTION\] of Slidedat.ini says tiles of 65000 x 65000"),
    ("HIER_0_COUNT = 3", "HIER_0_COUNT = 300", r"HIER_0_COUNT of \[HIERARCHICAL\] is '300'"),
    ("Slide zoom level", "Slide filter level", r"Slidedat.ini names no zoom levels"),
    ("IMAGE_FORMAT = JPEG", "IMAGE_FORMAT = GIF", r"IMAGE_FORMAT of .* is 'GIF', not JPEG, PNG"),
    (f"SLIDE_ID = {SLIDE_ID}", "SLIDE_ID = 0123", r"Index.dat is that of another slide"),
]


@pytest.mark.parametrize(("old", "new", "reason"), MIRAX)
def test_a_mirax_slide_whose_slidedat_contradicts_its_files_is_refused(
    tmp_path, monkeypatch, old, new, reason
):
    path = write_mirax(tmp_path / "a.mrxs", paint())
    replace(tmp_path / "a" / "Slidedat.ini", old, new)
    message = refused(path, monkeypatch)
    assert message.startswith("a.mrxs: this MIRAX slide is damaged or incomplete: ")
    assert re.search(reason, message), message


def test_a_mirax_slide_without_its_folder_is_no_picture(tmp_path):
    path = write_mirax(tmp_path / "a.mrxs", paint())
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(SlideError, match=r"a.mrxs: this MIRAX slide lacks its folder a with Slide"):
        open_slide(path, mpp=0.5)


def test_a_mirax_slide_with_a_truncated_file_of_tiles_is_refused(tmp_path, monkeypatch):
    path = write_mirax(tmp_path / "a.mrxs", paint())
    data = tmp_path / "a" / "Data0000.dat"
    data.write_bytes(data.read_bytes()[:-5000])
    message = refused(path, monkeypatch)
    assert "Data0000.dat is truncated: " in message
    assert "1 of 2 tiles of level 2 lie beyond the end of their file" in message


def test_a_mirax_index_is_checked(tmp_path, monkeypatch):
    path = write_mirax(tmp_path / "a.mrxs", paint())
    index = tmp_path / "a" / "Index.dat"
    whole = index.read_bytes()
    looped = mirax_index([[(0, 0, 1, 0)]] * 3)
    page = len(looped) - 24
    looped = looped[: page + 4] + struct.pack("<i", page) + looped[page + 8 :]
    cases = {
        whole[:60]: "Index.dat is truncated",
        b"01.03" + whole[5:]: "Index.dat does not have version 01.02",
        whole[:37] + struct.pack("<i", 2**30) + whole[41:]: "position 1073741824 lies outside",
        looped: "a list of tiles leads back to itself",
        mirax_index([[], [], []]): "Index.dat lists no tile of level 0",
        mirax_index([[(0, 0, 1, 7)]] * 3): "level 0 has an impossible tile",
    }
    for content, reason in cases.items():
        index.write_bytes(content)
        assert reason in refused(path, monkeypatch)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("ImageFile=a.jpg", "ImageFile=b.jpg", "its file 'b.jpg' is missing or empty"),
        ("MapFile=a_map.jpg", "", "its file '' is missing or empty"),
        ("NoJpegColumns=1", "NoJpegColumns=2", "a.vms names 1 images, but needs 2"),
        ("NoJpegRows=1", "NoJpegRows=1000000", "NoJpegRows of [Virtual Microscope Specimen] is '1"),
        ("MapFile=a_map.jpg", "MapFile=a.vms", "its file a.vms is no JPEG image"),
    ],
)
def test_a_vms_file_whose_images_are_not_there_is_refused(tmp_path, monkeypatch, old, new, reason):
    path = write_vms(tmp_path / "a.vms", paint())
    path.write_text(path.read_text().replace(old, new))
    assert reason in refused(path, monkeypatch)


def test_the_images_of_a_vms_slide_are_checked(tmp_path, monkeypatch):
    path = write_vms(tmp_path / "a.vms", paint())
    image = tmp_path / "a.jpg"
    whole = image.read_bytes()
    frame = whole.index(b"\xff\xc0")
    cases = {
        whole[: len(whole) // 2]: "its JPEG image a.jpg is truncated",
        whole[: frame + 5] + bytes(2) + whole[frame + 7 :]: "the headers of its JPEG image a.jpg",
        b"GIF" + whole: "its file a.jpg is no JPEG image",
    }
    for content, reason in cases.items():
        image.write_bytes(content)
        assert reason in refused(path, monkeypatch)


def test_the_images_of_a_vmu_slide_are_checked(tmp_path, monkeypatch):
    path = write_vmu(tmp_path / "a.vmu", paint())
    image = tmp_path / "a.ngr"
    whole = image.read_bytes()
    cases = {
        whole[:-100]: "its image a.ngr of 384 x 256 px is truncated",
        b"XX" + whole[2:]: "the header of its image a.ngr is damaged",
        whole[:12] + struct.pack("<i", 100) + whole[16:]: "has columns of 100 of 384 px",
        whole[:10]: "its image a.ngr is truncated",
    }
    for content, reason in cases.items():
        image.write_bytes(content)
        assert reason in refused(path, monkeypatch)


def test_the_segments_of_a_czi_file_are_checked(tmp_path, monkeypatch):
    path = write_czi(tmp_path / "a.czi", paint())
    whole = path.read_bytes()
    directory = whole.index(b"ZISRAWDIRECTORY")
    metadata = whole.index(b"ZISRAWMETADATA")
    pointer = 32 + struct.calcsize("<4i16s16si")
    tiles = directory + 32 + 128

    def changed(position: int, content: bytes) -> bytes:
        return whole[:position] + content + whole[position + len(content) :]

    cases = {
        whole[: directory + 100]: "its ZISRAWDIRECTORY has 1052 bytes, which is more than",
        whole[:directory]: "its ZISRAWDIRECTORY would lie at byte",
        changed(pointer, struct.pack("<q", 4096)): "its ZISRAWDIRECTORY is not at byte 4096",
        changed(pointer + 8, struct.pack("<q", -1)): "its ZISRAWMETADATA would lie at byte -1",
        changed(directory + 32, struct.pack("<i", 2**30)): "1052 bytes lists 1073741824 tiles",
        changed(directory + 24, struct.pack("<q", 2**60)): "its ZISRAWDIRECTORY has 115292150",
        changed(metadata + 32, struct.pack("<i", 2**30)): "its metadata have 1073741824 bytes",
        changed(tiles, b"XX"): "entry 0 of its directory is damaged",
        changed(tiles, czi_entry(2**40, 0, (0, 0, 128, 128), (128, 128))): "1 of its 7 tiles lie",
        changed(tiles, czi_entry(600, 0, (0, 0, 128, 128), (0, 128))): "tile 0 has 0 x 128 of",
        changed(tiles, czi_entry(600, 0, (0, 0, 2**20, 2**20), (2**20, 2**20))): "is too large",
        changed(tiles, czi_entry(600, 0, (-(2**30), 0, 9, 9), (9, 9))): "its tiles cover 107374",
    }
    for content, reason in cases.items():
        path.write_bytes(content)
        assert reason in refused(path, monkeypatch), reason


def test_an_svslide_file_that_is_truncated_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.svslide"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE tiles (content BLOB)")
        database.execute("INSERT INTO tiles VALUES (?)", (bytes(50_000),))
    database.close()
    monkeypatch.setattr(openslide.OpenSlide, "detect_format", lambda _: "sakura")
    length = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-4096])
    assert f"it is truncated: it has {length - 4096} of {length} bytes" in refused(
        path, monkeypatch
    )


# --- the child process ---


@pytest.fixture
def child(monkeypatch):
    """Return a function that runs other code in the child process."""
    probe_module._problem.cache_clear()
    yield lambda code: monkeypatch.setattr(probe_module, "CHILD", code)
    probe_module._problem.cache_clear()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", r"it crashed \(code -6\)"),
        ("raise MemoryError", r"it needed more than 4 GiB of memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", r"within 10 s of computing"),
        ("while True: pass", r"it did not finish within 1 s"),
    ],
)
def test_a_slide_that_ends_the_process_that_opens_it_is_refused(
    tmp_path, child, monkeypatch, code, reason
):
    monkeypatch.setattr(probe_module, "TIME_LIMIT_S", 1.0)
    child(code)
    path = write_czi(tmp_path / "a.czi", paint())
    with pytest.raises(SlideError, match=rf"a.czi: OpenSlide cannot open this slide: .*{reason}"):
        OpenSlideScan(path)


def test_a_slide_is_tried_once_until_it_changes(tmp_path, child, monkeypatch):
    calls = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: calls.append(a) or run(*a, **k))
    child("")
    path = write_czi(tmp_path / "a.czi", paint())
    for _ in range(3):
        probe(path, [path])
    assert len(calls) == 1
    with path.open("ab") as file:
        file.write(bytes(32))
    probe(path, [path])
    assert len(calls) == 2


def test_an_error_that_openslide_reports_is_left_to_the_parent(tmp_path, child):
    path = tmp_path / "a.czi"
    path.write_bytes(b"no slide")
    probe(path, [path])


def test_tiff_and_dicom_are_not_tried(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a child process"))
    OpenSlideScan(plain()).close()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory differ")
def test_the_child_cannot_take_more_memory_than_its_limit(tmp_path, child):
    limits, _, _ = probe_module.CHILD.partition("from openslide")
    child(limits + "bytearray(5 * 2**30)")
    path = write_czi(tmp_path / "a.czi", paint())
    with pytest.raises(SlideError, match="it needed more than 4 GiB of memory"):
        probe(path, [path])
