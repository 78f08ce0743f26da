import numpy as np
import pytest
import tifffile

from parfocal.slide.errors import SlideError
from parfocal.slide.tiff import Extent, read_extent
from parfocal.slide.write import write_pyramid


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"tile": (16, 16)}])
def test_the_size_and_the_last_byte_of_a_picture_are_read(tmp_path, noise, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise, photometric="rgb", **options)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        last = max(
            start + length
            for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)
        )
    assert read_extent(path) == Extent(noise.shape[1], noise.shape[0], last)


def test_every_level_of_a_pyramid_counts(tmp_path):
    path = tmp_path / "a.tif"
    gray = np.full((256, 256, 3), 128, np.uint8)
    write_pyramid(path, lambda column, row: gray, (1024, 512), mpp=1, downsamples=(1, 4))
    found = read_extent(path)
    with tifffile.TiffFile(path) as file:
        ends = [
            max(map(sum, zip(p.dataoffsets, p.databytecounts, strict=True))) for p in file.pages
        ]
    assert (found.width, found.height, found.needs) == (1024, 512, max(ends))
    assert len(ends) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 zip", r"a\.tif: not a TIFF, as this slide should be"),
        (b"", r"a\.tif: not a TIFF"),
        (b"II*\0\x00\x10\x00\x00", "whose list of pictures breaks off"),
        (b"II*\0\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", "whose list of pictures breaks off"),
    ],
)
def test_what_is_no_whole_tiff_is_refused(tmp_path, content, message):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(SlideError, match=message):
        read_extent(tmp_path / "a.tif")


def test_numbers_said_to_lie_beyond_the_file_are_not_looked_for(tmp_path, noise):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise, photometric="rgb", tile=(16, 16), bigtiff=True)
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags["TileOffsets"].offset
    raw[at + 4 : at + 12] = (2**60).to_bytes(8, "little")  # how many there are
    path.write_bytes(raw)
    with pytest.raises(SlideError, match="breaks off"):
        read_extent(path)
