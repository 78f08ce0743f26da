import numpy as np
import openslide
import pytest
import tifffile
from tests.slide.readers.test_opening import change

from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Box, open_slide


@pytest.fixture(autouse=True)
def never_openslide(monkeypatch):
    """Fail where OpenSlide opens a file, whose allocator can abort the process."""
    monkeypatch.setattr(openslide.OpenSlide, "__init__", lambda *_: pytest.fail("OpenSlide"))


def values(path, tag):
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[0].tags[tag].value


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        ("ImageWidth", 1, r"has 35 positions .* but its size of 1 x 304 px needs 5"),
        ("ImageWidth", 0, r"is 0 x 304 px, which no slide is"),
        ("ImageLength", 2**30, r"is 440 x 1073741824 px, which no slide is"),
        ("TileWidth", 16, r"35 positions and 35 lengths of tiles, but its size .* needs 140"),
        ("TileLength", 2**24, r"has tiles of 64 x 16777216 px, which is too large"),
        ("TileLength", 0, r"a.tif|plain.tif"),
        ("SamplesPerPixel", 1000, r"plain.tif"),
    ],
)
def test_a_directory_that_contradicts_itself_is_refused(plain, tag, value, message):
    path = change(plain(compression="deflate"), tag, value)
    with pytest.raises(SlideError, match=message):
        open_slide(path)


def test_every_directory_is_checked(plain):
    path = plain(compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[1].tags["TileLength"].overwrite(2**24)
    with pytest.raises(SlideError, match=r"image 1 of the file has tiles of 64 x 16777216 px"):
        open_slide(path)


@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}])
def test_tiles_that_overlap_in_the_file_are_refused(plain, options):
    path = plain(**options)
    offsets = values(path, "TileOffsets")
    change(path, "TileOffsets", (offsets[0] + 8, *offsets[1:]))
    with pytest.raises(SlideError, match=r"image 0 of the file has tiles that overlap in the file"):
        open_slide(path)


def test_tiles_that_are_stored_once_may_be_used_twice(plain, picture):
    path = plain(compression="deflate")
    for tag in ("TileOffsets", "TileByteCounts"):
        first, _, *rest = values(path, tag)
        change(path, tag, (first, first, *rest))
    with open_slide(path) as slide:
        assert (slide.read(Box(64, 0, 64, 64), 0.5) == picture[:64, :64]).all()


def test_uncompressed_pixels_of_another_length_are_refused(plain):
    path = plain()
    counts = values(path, "TileByteCounts")
    change(path, "TileByteCounts", (counts[0] - 3, *counts[1:]))
    with pytest.raises(SlideError, match=r"has uncompressed pixels whose length does not fit"):
        open_slide(path)


def test_pixels_that_cannot_be_so_small_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        *(path, np.zeros((64, 64, 3), np.uint8)),
        photometric="rgb",
        compression="deflate",
        rowsperstrip=64,
        metadata=None,
    )
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for tag, value in (
            ("ImageWidth", 60_000),
            ("ImageLength", 15_000),
            ("RowsPerStrip", 15_000),
        ):
            tiff.pages[0].tags[tag].overwrite(value)
    with pytest.raises(SlideError, match=r"has 2700000000 bytes of pixels stored in \d+ bytes"):
        open_slide(path, mpp=0.5)


# --- missing tiles ---


def drop(path, count, tags=("TileOffsets", "TileByteCounts")):
    for tag in tags:
        change(path, tag, (0,) * count + tuple(values(path, tag)[count:]))
    return path


@pytest.mark.parametrize(
    "tags", [("TileOffsets",), ("TileByteCounts",), ("TileOffsets", "TileByteCounts")]
)
def test_missing_tiles_are_refused_with_their_share(plain, tags):
    message = (
        r"plain.tif: 7 of the 35 tiles \(20.0%\) of level 0 are not stored, as after an "
        r"interrupted export. .* again; .* set slide.missing_tiles to background"
    )
    with pytest.raises(SlideError, match=message):
        open_slide(drop(plain(compression="deflate"), 7, tags))


def test_missing_tiles_are_background_if_so_set(plain, picture):
    path = drop(plain(compression="deflate"), 7)
    with open_slide(path, missing_tiles="background") as slide:
        pixels = slide.read(Box(0, 0, 440, 304), 0.5)
        note = "7 of the 35 tiles (20.0%) of level 0 are not stored and are read as background"
        assert slide.notes == (note,)
    assert (pixels[:64] == 255).all()
    assert (pixels[64:] == picture[64:]).all()


@pytest.mark.parametrize("missing_tiles", ["auto", "background"])
def test_a_file_without_any_tile_is_refused(plain, missing_tiles):
    path = drop(plain(compression="deflate"), 35)
    with pytest.raises(SlideError, match=r"none of the 35 tiles of level 0 is stored, as after an"):
        open_slide(path, missing_tiles=missing_tiles)


@pytest.mark.parametrize(
    ("code", "place", "value"),
    [
        *((258, 2, 12), (259, 4, 0), (262, 2, 5), (274, 4, 2), (277, 4, 3), (296, 2, 12)),
        *((282, 2, 3), (322, 2, 2), (324, 2, 7)),
    ],
)
@pytest.mark.parametrize("page", [0, 1])
def test_a_tag_of_a_wrong_type_or_number_is_refused(plain, code, place, value, page):
    path = plain(compression="deflate", extratags=[(274, 3, 1, 1, True)])
    with tifffile.TiffFile(path) as tiff:
        entry = tiff.pages[page].tags[code].offset
    content = bytearray(path.read_bytes())
    content[entry + place : entry + place + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(SlideError, match=r"plain.tif: the directories of this TIFF are truncated"):
        open_slide(path)


# --- Philips TIFF, which leaves out blank tiles ---


def philips_level(number, mpp):
    return (
        '<DataObject ObjectType="PixelDataRepresentation">'
        f'<Attribute Name="DICOM_PIXEL_SPACING">"{mpp / 1000}" "{mpp / 1000}"</Attribute>'
        f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER">{number}</Attribute></DataObject>'
    )


PHILIPS = (
    '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
    '<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage">'
    '<Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>'
    '<Attribute Name="DICOM_PIXEL_SPACING">"0.0005" "0.0005"</Attribute>'
    '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>'
    f"{philips_level(0, 0.5)}{philips_level(1, 1.0)}"
    "</Array></Attribute></DataObject></Array></Attribute></DataObject>"
)


@pytest.fixture
def philips(tmp_path, picture):
    """Write a Philips TIFF whose first row of tiles is not stored."""
    path = tmp_path / "a.tiff"
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 2):
            tiff.write(
                picture[::step, ::step],
                tile=(64, 64),
                photometric="rgb",
                compression="jpeg",
                subfiletype=step - 1,
                description=PHILIPS if step == 1 else None,
                software="Philips DP v1.0",
                metadata=None,
            )
    return drop(path, 7)


def test_a_philips_tiff_may_leave_out_blank_tiles(philips, monkeypatch):
    monkeypatch.undo()
    with open_slide(philips) as slide:
        assert (slide.vendor, slide.mpp) == ("philips", 0.5)
        assert slide.notes[0].startswith("7 of the 35 tiles (20.0%) of level 0 are not stored")
        pixels = slide.read(Box(0, 0, 440, 304), 0.5)
    assert (pixels[:64] == 255).all()
    assert np.ptp(pixels[64:128]) > 100


def test_missing_tiles_of_a_philips_tiff_can_be_refused(philips):
    with pytest.raises(SlideError, match="not stored"):
        open_slide(philips, missing_tiles="refuse")
