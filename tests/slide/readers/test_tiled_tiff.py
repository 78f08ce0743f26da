import gc
import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers import tiled_tiff
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.readers.tiff_directories import read_directories
from parfocal.slide.readers.tiled_tiff import open_tiled_tiff
from parfocal.slide.slide import Box, open_slide
from parfocal.slide.sources.local import LocalSource
from parfocal.slide.write import write_pyramid

SIDE = 64
FIRST, SECOND, MIDDLE = Box(0, 0, SIDE, SIDE), Box(SIDE, 0, SIDE, SIDE), Box(32, 0, SIDE, SIDE)
KINDS = {
    "painted": lambda make: make("painted"),
    "Aperio, JPEG": lambda make: make("aperio")("JPEG"),
    "Aperio, JPEG 2000": lambda make: make("aperio")("APERIO_JP2000_RGB"),
    "JPEG of 4:4:4": lambda make: make("plain")(compression="jpeg", subsampling=(1, 1)),
    "LZW with a predictor": lambda make: make("plain")(compression="lzw", predictor=True),
    "deflate, tiles not square": lambda make: make("plain")(compression="deflate", tile=(48, 80)),
    "uncompressed": lambda make: make("plain")(),
}


@pytest.fixture
def painted(tmp_path, picture):
    """Write a pyramid with `write_pyramid`."""
    path = tmp_path / "painted.tif"

    def tile(column, row):
        return picture[row * SIDE :, column * SIDE :][:SIDE, :SIDE]

    size = picture.shape[1::-1]
    write_pyramid(path, tile, size, mpp=0.5, downsamples=(1, 2, 4), tile_size=SIDE)
    return path


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param](request.getfixturevalue)


def direct(path):
    source = LocalSource(path, CostMeter())
    return open_tiled_tiff(path, read_directories(path, source), source)


def stored(path, index):
    """Return the position and the length of a tile of level 0."""
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[0].dataoffsets[index], tiff.pages[0].databytecounts[index]


def overwrite(path, index, change):
    """Change the stored bytes of a tile of level 0 and keep their number."""
    offset, length = stored(path, index)
    content = bytearray(path.read_bytes())
    changed = change(bytes(content[offset : offset + length]))
    content[offset : offset + length] = changed.ljust(length, b"\0")[:length]
    path.write_bytes(content)


# --- compared with OpenSlide ---


def test_pixels_are_identical_to_those_of_openslide(kind):
    openslide, scan = OpenSlideScan(kind), direct(kind)
    for number, level in enumerate(openslide.levels):
        boxes = (
            (0, 0, level.width, level.height),
            (0, 0, SIDE, SIDE),
            (13, 7, SIDE, SIDE),
            (level.width - 50, level.height - 41, 50, 41),
        )
        for box in boxes:
            assert (scan.read_level(number, *box) == openslide.read_level(number, *box)).all()


def test_levels_and_metadata_are_those_of_openslide(kind):
    openslide, scan = OpenSlideScan(kind), direct(kind)
    assert scan.levels == openslide.levels
    assert scan.metadata.vendor == openslide.metadata.vendor
    assert scan.metadata.mpp == openslide.metadata.mpp
    assert scan.metadata.objective_power == openslide.metadata.objective_power


def test_an_aperio_thumbnail_is_not_a_level(aperio):
    with open_slide(aperio("JPEG")) as slide:
        assert [level.width for level in slide.levels] == [440, 220]
        assert (slide.vendor, slide.mpp, slide.objective_power) == ("aperio", 0.25, "40")


@pytest.mark.parametrize(
    "name",
    [
        *("slides/CMU-1-Small-Region.svs", "slides/tcga-cr-7395-01a-01-ts1.svs"),
        *("slides/her2st-C2.tif", "slides/idc-14306.tif", "prostate/08b1c6fbb511.tif"),
    ],
)
def test_real_pixels_are_identical_to_those_of_openslide(real, name):
    openslide, scan = OpenSlideScan(real(name)), direct(real(name))
    assert (scan.levels, scan.metadata.mpp) == (openslide.levels, openslide.metadata.mpp)
    for number, level in enumerate(openslide.levels):
        corner = 0, 0, min(1000, level.width), min(1000, level.height)
        assert (scan.read_level(number, *corner) == openslide.read_level(number, *corner)).all()
    edge = openslide.levels[0].width - 300, openslide.levels[0].height - 310, 300, 310
    assert (scan.read_level(0, *edge) == openslide.read_level(0, *edge)).all()


# --- damage ---


def huge(tile):
    """Change the height and width in the frame header of a JPEG image."""
    at = tile.index(b"\xff\xc0\x00\x11\x08") + 5
    return tile[:at] + (65500).to_bytes(2) * 2 + tile[at + 4 :]


DAMAGES = {
    "zeros": lambda tile: bytes(len(tile)),
    "ones": lambda tile: b"\xff" * len(tile),
    "truncated": lambda tile: tile[: len(tile) // 2],
    "other bytes at the end": lambda tile: tile[:-1500] + bytes(range(256)) * 6,
    "a hole": lambda tile: tile[:-1500] + bytes(1000) + tile[-500:],
    "a tile of 65,500 px": huge,
    "a tile of 32 px": lambda tile: imagecodecs.jpeg8_encode(np.zeros((32, 32, 3), "u1")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_error_about_a_damaged_tile_names_the_place(painted, damage):
    overwrite(painted, 1, DAMAGES[damage])
    message = r"^painted.tif: damaged at x=64, y=0 \(64 x 64 px of level 0\): [^\n]*. Copy the file"
    with open_slide(painted) as slide, pytest.raises(SlideError, match=message):
        slide.read(SECOND, 0.5)


@pytest.mark.parametrize("coding", ["deflate", "lzw", "jpeg"])
def test_intact_tiles_can_be_read_after_a_damaged_one(plain, coding):
    path = plain(compression=coding)
    with open_slide(path) as slide:
        intact = slide.read(FIRST, 0.5)
    overwrite(path, 1, DAMAGES["ones"])
    with open_slide(path) as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=r"plain.tif: damaged at x=64, y=0"):
                slide.read(SECOND, 0.5)
            assert (slide.read(FIRST, 0.5) == intact).all()


def test_a_truncated_jpeg_2000_tile_is_an_error(aperio):
    path = aperio("APERIO_JP2000_RGB")
    overwrite(path, 1, lambda tile: b"")
    with open_slide(path) as slide, pytest.raises(SlideError, match="damaged at x=64, y=0"):
        slide.read(SECOND, 0.25)


def test_the_place_of_damage_is_in_level_0_pixels(painted):
    with open_slide(painted) as slide:
        painted.write_bytes(b"")
        message = (
            r"damaged at x=128, y=256 \(64 x 64 px of level 1\): the tile ends \d+ bytes beyond"
        )
        with pytest.raises(SlideError, match=message):
            slide.read(Box(128, 256, 100, 40), 1.0)


def test_the_error_about_a_failing_disk_names_the_place(painted, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    with open_slide(painted) as slide:
        monkeypatch.setattr(os, "pread", fail)
        message = r"painted.tif: damaged at x=0, y=0 .*: \[Errno 5\] Input/output error. Copy"
        with pytest.raises(SlideError, match=message):
            slide.read(FIRST, 0.5)


def test_a_file_with_tiles_beyond_its_end_is_refused(plain):
    path = plain()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        offsets = np.array(tiff.pages[0].dataoffsets)
        tiff.pages[0].tags["TileOffsets"].overwrite((offsets + 500_000).tolist())
    beyond = ((offsets + 500_000 + 3 * SIDE * SIDE) > path.stat().st_size).sum()
    message = rf"plain.tif: image 0 of the file is truncated: {beyond} of its 35 tiles lie beyond"
    with pytest.raises(SlideError, match=message):
        open_slide(path)


# --- cost, cache and file descriptors ---


def test_the_bytes_of_tiles_are_counted(painted):
    with open_slide(painted) as slide:
        opened = slide.cost_meter.total()
        slide.read(MIDDLE, 0.5)
        cost = slide.cost_meter.total()
    tiles = stored(painted, 0)[1] + stored(painted, 1)[1]
    assert (cost.bytes_read, cost.requests) == (opened.bytes_read + tiles, opened.requests + 2)
    assert 0 < opened.bytes_read < painted.stat().st_size  # the directories
    assert cost.file_bytes == painted.stat().st_size
    assert cost.share_bytes == cost.bytes_read / painted.stat().st_size


def test_a_reader_that_counts_no_bytes_reports_none(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=0.5) as slide:
        cost = slide.cost_meter.total()
    assert (cost.bytes_read, cost.requests, cost.file_bytes, cost.share_bytes) == (None,) * 4


def test_a_tile_read_in_part_is_cached(painted):
    with open_slide(painted) as slide:
        slide.read(MIDDLE, 0.5)
        before = slide.cost_meter.total().bytes_read
        slide.read(Box(32, 8, SIDE, 40), 0.5)
        assert slide.cost_meter.total().bytes_read == before


def test_a_tile_read_whole_is_not_cached(painted, monkeypatch):
    monkeypatch.setattr(tiled_tiff, "CACHE_BYTES", 3 * SIDE * SIDE)
    with open_slide(painted) as slide:
        part = Box(5, 5, 20, 20)
        slide.read(part, 0.5)
        slide.read(SECOND, 0.5)
        before = slide.cost_meter.total().bytes_read
        slide.read(part, 0.5)
        assert slide.cost_meter.total().bytes_read == before


def test_the_cache_is_bounded(painted, monkeypatch):
    monkeypatch.setattr(tiled_tiff, "CACHE_BYTES", 3 * SIDE * SIDE)
    with open_slide(painted) as slide:
        slide.read(Box(5, 5, 20, 20), 0.5)
        slide.read(Box(5 + SIDE, 5, 20, 20), 0.5)
        before = slide.cost_meter.total().bytes_read
        slide.read(Box(5, 5, 20, 20), 0.5)
        assert slide.cost_meter.total().bytes_read == before + stored(painted, 0)[1]


@pytest.mark.parametrize("box", [FIRST, MIDDLE])
def test_pixels_that_were_read_may_be_modified(kind, box):
    with open_slide(kind, mpp=0.5) as slide:
        first = slide.read(box, 0.5)
        kept = first.copy()
        first[:] = 0
        assert (slide.read(box, 0.5) == kept).all()


def test_a_slide_that_is_closed_or_deleted_holds_no_file(painted):
    def files():
        links = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
        return sum(link.resolve() == painted.resolve() for link in links)

    slide = open_slide(painted)
    assert files() == 1
    slide.close()
    assert files() == 0
    dropped = open_slide(painted)
    del dropped
    gc.collect()
    assert files() == 0
