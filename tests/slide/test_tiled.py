import gc
import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from parfocal.cost import CostMeter
from parfocal.slide import tiled
from parfocal.slide.errors import SlideError
from parfocal.slide.openslide import OpenSlideScan
from parfocal.slide.slide import Box, open_slide
from parfocal.slide.tiled import open_tiled
from parfocal.slide.write import write_pyramid

SIDE = 64
FIRST, SECOND, MIDDLE = Box(0, 0, SIDE, SIDE), Box(SIDE, 0, SIDE, SIDE), Box(32, 0, SIDE, SIDE)
KINDS = {
    "painted": lambda make: make("painted"),
    "Aperio, JPEG": lambda make: make("aperio")("JPEG"),
    "Aperio, JPEG 2000": lambda make: make("aperio")("APERIO_JP2000_RGB"),
    "JPEG of 4:4:4": lambda make: make("plain")(compression="jpeg", subsampling=(1, 1)),
    "LZW of differences": lambda make: make("plain")(compression="lzw", predictor=True),
    "deflate, oblong": lambda make: make("plain")(compression="deflate", tile=(48, 80)),
    "not compressed": lambda make: make("plain")(),
}


@pytest.fixture
def painted(tmp_path, picture):
    """A pyramid as this package writes them."""
    path = tmp_path / "painted.tif"

    def tile(column, row):
        return picture[row * SIDE :, column * SIDE :][:SIDE, :SIDE]

    size = picture.shape[1::-1]
    write_pyramid(path, tile, size, mpp=0.5, downsamples=(1, 2, 4), tile_size=SIDE)
    return path


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param](request.getfixturevalue)


def direct(path, bill=None):
    scan = open_tiled(path, OpenSlideScan(path), bill or CostMeter())
    assert scan is not None
    return scan


def stored(path, index):
    """Give where a tile of level 0 lies, and its length."""
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[0].dataoffsets[index], tiff.pages[0].databytecounts[index]


def overwrite(path, index, change):
    """Change the stored bytes of a tile of level 0, not their number."""
    offset, length = stored(path, index)
    content = bytearray(path.read_bytes())
    changed = change(bytes(content[offset : offset + length]))
    content[offset : offset + length] = changed.ljust(length, b"\0")[:length]
    path.write_bytes(content)


# --- as OpenSlide reads ---


def test_pixels_are_openslides_to_the_bit(kind):
    known, scan = OpenSlideScan(kind), direct(kind)
    for number, level in enumerate(known.levels):
        boxes = (
            (0, 0, level.width, level.height),
            (0, 0, SIDE, SIDE),
            (13, 7, SIDE, SIDE),
            (level.width - 50, level.height - 41, 50, 41),
        )
        for box in boxes:
            assert (scan.read_level(number, *box) == known.read_level(number, *box)).all()


def test_levels_and_what_the_file_says_are_openslides(kind):
    known, scan = OpenSlideScan(kind), direct(kind)
    assert scan.levels == known.levels
    assert scan.record == known.record


def test_an_aperio_thumbnail_is_no_level(aperio):
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
def test_real_pixels_are_openslides_to_the_bit(real, name):
    known, scan = OpenSlideScan(real(name)), direct(real(name))
    assert (scan.levels, scan.record) == (known.levels, known.record)
    for number, level in enumerate(known.levels):
        corner = 0, 0, min(1000, level.width), min(1000, level.height)
        assert (scan.read_level(number, *corner) == known.read_level(number, *corner)).all()
    edge = known.levels[0].width - 300, known.levels[0].height - 310, 300, 310
    assert (scan.read_level(0, *edge) == known.read_level(0, *edge)).all()


# --- damage ---


def huge(tile):
    """Change the height and width that a JPEG's frame header states."""
    at = tile.index(b"\xff\xc0\x00\x11\x08") + 5
    return tile[:at] + (65500).to_bytes(2) * 2 + tile[at + 4 :]


DAMAGES = {
    "zeros": lambda tile: bytes(len(tile)),
    "ones": lambda tile: b"\xff" * len(tile),
    "cut short": lambda tile: tile[: len(tile) // 2],
    "another file's bytes": lambda tile: tile[:-1500] + bytes(range(256)) * 6,
    "a hole": lambda tile: tile[:-1500] + bytes(1000) + tile[-500:],
    "a tile of 65,500 px": huge,
    "a tile of 32 px": lambda tile: imagecodecs.jpeg8_encode(np.zeros((32, 32, 3), "u1")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_tile_is_an_error_that_says_where(painted, damage):
    overwrite(painted, 1, DAMAGES[damage])
    message = r"^painted.tif: damaged at x=64, y=0 \(64 x 64 px of level 0\): [^\n]*; copy the file"
    with open_slide(painted) as slide, pytest.raises(SlideError, match=message):
        slide.read(SECOND, 0.5)


@pytest.mark.parametrize("coding", ["deflate", "lzw", "jpeg"])
def test_what_is_sound_can_be_read_after_a_damaged_tile(plain, coding):
    path = plain(compression=coding)
    with open_slide(path) as slide:
        sound = slide.read(FIRST, 0.5)
    overwrite(path, 1, DAMAGES["ones"])
    with open_slide(path) as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=r"plain.tif: damaged at x=64, y=0"):
                slide.read(SECOND, 0.5)
            assert (slide.read(FIRST, 0.5) == sound).all()


def test_a_jpeg_2000_tile_cut_short_is_an_error(aperio):
    path = aperio("APERIO_JP2000_RGB")
    overwrite(path, 1, lambda tile: b"")
    with open_slide(path) as slide, pytest.raises(SlideError, match="damaged at x=64, y=0"):
        slide.read(SECOND, 0.25)


def test_a_place_is_told_in_level_0_pixels(painted):
    with open_slide(painted) as slide:
        painted.write_bytes(b"")
        message = (
            r"damaged at x=128, y=256 \(64 x 64 px of level 1\): the file ends \d+ bytes before"
        )
        with pytest.raises(SlideError, match=message):
            slide.read(Box(128, 256, 100, 40), 1.0)


def test_a_disk_that_fails_is_an_error_that_says_where(painted, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    with open_slide(painted) as slide:
        monkeypatch.setattr(os, "pread", fail)
        message = r"painted.tif: damaged at x=0, y=0 .*: \[Errno 5\] Input/output error; copy"
        with pytest.raises(SlideError, match=message):
            slide.read(FIRST, 0.5)


def test_a_file_whose_tiles_lie_beyond_its_end_is_refused(plain):
    path = plain()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        offsets = np.array(tiff.pages[0].dataoffsets)
        tiff.pages[0].tags["TileOffsets"].overwrite((offsets + 500_000).tolist())
    beyond = ((offsets + 500_000 + 3 * SIDE * SIDE) > path.stat().st_size).sum()
    message = rf"plain.tif: cut short: {beyond} of its 47 tiles lie beyond its end; copy the file"
    with pytest.raises(SlideError, match=message):
        open_slide(path)


# --- what is read, kept and given back ---


def test_the_bytes_of_tiles_are_on_the_bill(painted):
    with open_slide(painted) as slide:
        assert slide.bill.close().bytes_read is None
        slide.read(MIDDLE, 0.5)
        assert slide.bill.close().bytes_read == stored(painted, 0)[1] + stored(painted, 1)[1]


def test_a_tile_read_in_part_is_kept_for_its_neighbors(painted):
    with open_slide(painted) as slide:
        slide.read(MIDDLE, 0.5)
        before = slide.bill.close().bytes_read
        slide.read(Box(32, 8, SIDE, 40), 0.5)
        assert slide.bill.close().bytes_read == before


def test_a_tile_read_whole_takes_no_place_from_those_that_are_kept(painted, monkeypatch):
    monkeypatch.setattr(tiled, "CACHE_BYTES", 3 * SIDE * SIDE)
    with open_slide(painted) as slide:
        part = Box(5, 5, 20, 20)
        slide.read(part, 0.5)
        slide.read(SECOND, 0.5)
        before = slide.bill.close().bytes_read
        slide.read(part, 0.5)
        assert slide.bill.close().bytes_read == before


def test_no_more_tiles_are_kept_than_memory_allows(painted, monkeypatch):
    monkeypatch.setattr(tiled, "CACHE_BYTES", 3 * SIDE * SIDE)
    with open_slide(painted) as slide:
        slide.read(Box(5, 5, 20, 20), 0.5)
        slide.read(Box(5 + SIDE, 5, 20, 20), 0.5)
        before = slide.bill.close().bytes_read
        slide.read(Box(5, 5, 20, 20), 0.5)
        assert slide.bill.close().bytes_read == before + stored(painted, 0)[1]


@pytest.mark.parametrize("box", [FIRST, MIDDLE])
def test_what_is_read_may_be_written_to(kind, box):
    with open_slide(kind, mpp=0.5) as slide:
        first = slide.read(box, 0.5)
        kept = first.copy()
        first[:] = 0
        assert (slide.read(box, 0.5) == kept).all()


def test_a_slide_that_is_closed_or_forgotten_holds_no_file(painted):
    def files():
        held = (link for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
        return sum(link.resolve() == painted.resolve() for link in held)

    slide = open_slide(painted)
    assert files() == 1
    slide.close()
    assert files() == 0
    forgotten = open_slide(painted)
    del forgotten
    gc.collect()
    assert files() == 0
