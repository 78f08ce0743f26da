import hashlib
import os
import struct
from pathlib import Path

import pytest

from parfocal.dataset.readers.check import check_files, md5_of
from parfocal.dataset.readers.listing import Listing, Row

from .conftest import PICTURE


def listing(folder, *names, **known):
    return Listing(tuple(Row(Path(name).stem, folder / name, "x") for name in names), **known)


def write_hole(path: Path, width: int, height: int, tile_bytes: int = 20_000) -> int:
    """Write a BigTIFF of its true size whose tiles are a hole in the file: no disk is used."""
    tiles = -(-width // 512) * -(-height // 512)
    tags = [
        *[(256, 4, 1, width), (257, 4, 1, height), (322, 4, 1, 512), (323, 4, 1, 512)],
        (324, 16, tiles, 16 + 8 + 6 * 20 + 8),
        (325, 4, tiles, 16 + 8 + 6 * 20 + 8 + 8 * tiles),
    ]
    head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags))
    head += b"".join(struct.pack("<HHQQ", *tag) for tag in tags) + struct.pack("<Q", 0)
    start = len(head) + 12 * tiles
    offsets = struct.pack(f"<{tiles}Q", *range(start, start + tiles * tile_bytes, tile_bytes))
    path.write_bytes(head + offsets + struct.pack(f"<{tiles}I", *[tile_bytes] * tiles))
    size = start + tiles * tile_bytes
    os.truncate(path, size)
    return size


def test_complete_missing_and_damaged_files_are_listed(tmp_path, put):
    put(tmp_path / "a.tif")
    put(tmp_path / "b.tif", PICTURE[:-1000])
    put(tmp_path / "c.tif", "<html>not checked</html>")
    put(tmp_path / ".e.tif.part", "half")
    checked = check_files(
        listing(tmp_path, "a.tif", "b.tif", "c.tif", "d.tif", "e.tif"), verify=False
    )
    assert [row.slide_id for row in checked.complete] == ["a"]
    assert checked.missing == ("d.tif", "e.tif (only .e.tif.part)")
    size = len(PICTURE)
    assert checked.damaged == {
        "b.tif": f"b.tif: {size - 1000:,} bytes of {size:,}, so it is truncated; download it again",
        "c.tif": "c.tif: not a TIFF file. Download or export it again.",
    }


def test_a_file_must_have_the_published_size(tmp_path, put):
    put(tmp_path / "a.tif")
    sizes = {tmp_path / "a.tif": 123_456}
    checked = check_files(listing(tmp_path, "a.tif", sizes=sizes), verify=False)
    assert checked.damaged["a.tif"].endswith(
        "bytes of 123,456, so the download is incomplete; download it again"
    )


def test_checksums_are_verified_on_request(tmp_path, put, caplog):
    caplog.set_level("INFO")
    files = listing(
        *(tmp_path, "a.tif", "b.tif"),
        sums={tmp_path / "a.tif": hashlib.md5(PICTURE).hexdigest(), tmp_path / "b.tif": "0" * 32},
    )
    put(tmp_path / "a.tif")
    put(tmp_path / "b.tif")
    assert check_files(files, verify=False).damaged == {}
    assert check_files(files, verify=True).damaged == {
        "b.tif": "b.tif: its MD5 checksum differs from the published one; download it again"
    }
    assert "a.tif: its MD5 checksum is the published one" in caplog.text


def test_the_checksum_of_a_long_file_covers_the_whole_file(tmp_path, put):
    path = put(tmp_path / "a.bin", bytes(range(256)) * 5000)
    assert md5_of(path) == hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("short", [0, 1])
def test_a_slide_of_its_true_size_is_checked_without_reading_it(tmp_path, short):
    path = tmp_path / "a.tif"
    size = write_hole(path, 97_792, 221_184)
    assert size > 1e9
    os.truncate(path, size - short)
    checked = check_files(listing(tmp_path, "a.tif"), verify=False)
    assert (len(checked.complete), len(checked.damaged)) == (1 - short, short)
