import numpy as np
import pytest
import tifffile

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.tiff_directories import Extent, read_directories, read_extent
from parfocal.slide.sources.local import LocalSource
from parfocal.slide.write import write_pyramid


def directories_of(path):
    source = LocalSource(path, CostMeter())
    return read_directories(path, source)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"tile": (16, 16)}])
def test_the_extent_is_the_size_and_the_end_of_the_last_tile(tmp_path, noise, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise, photometric="rgb", **options)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        last = max(
            start + length
            for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)
        )
    assert read_extent(path) == Extent(noise.shape[1], noise.shape[0], last)


def test_the_extent_covers_every_level_of_a_pyramid(tmp_path):
    path = tmp_path / "a.tif"
    gray = np.full((256, 256, 3), 128, np.uint8)
    write_pyramid(path, lambda column, row: gray, (1024, 512), mpp=1, downsamples=(1, 4))
    extent = read_extent(path)
    with tifffile.TiffFile(path) as file:
        ends = [
            max(map(sum, zip(p.dataoffsets, p.databytecounts, strict=True))) for p in file.pages
        ]
    assert (extent.width, extent.height, extent.required_bytes) == (1024, 512, max(ends))
    assert len(ends) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 zip", r"a\.tif: not a TIFF file. Download or export it again"),
        (b"", r"a\.tif: not a TIFF"),
        (b"II*\0\x00\x10\x00\x00", "directories of this TIFF are truncated or damaged"),
        (
            b"II*\0\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            "directories of this TIFF are truncated or damaged",
        ),
    ],
)
def test_a_file_that_is_not_a_complete_tiff_is_refused(tmp_path, content, message):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(SlideError, match=message):
        read_extent(tmp_path / "a.tif")


def test_a_tag_with_an_impossible_count_is_refused(tmp_path, noise):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise, photometric="rgb", tile=(16, 16), bigtiff=True)
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at = file.pages[0].tags["TileOffsets"].offset
    raw[at + 4 : at + 12] = (2**60).to_bytes(8, "little")  # the count
    path.write_bytes(raw)
    with pytest.raises(SlideError, match="truncated or damaged"):
        read_extent(path)


def test_a_directory_describes_its_image(plain):
    directories = directories_of(plain(compression="deflate"))
    assert [directory.size for directory in directories] == [(440, 304), (220, 152)]
    first = directories[0]
    assert first.tile_size == (64, 64)
    assert len(first.offsets) == len(first.byte_counts) == 7 * 5
    assert first.is_stored.all()
    assert (first.tile_counts, first.planes, first.samples, first.bits) == ((7, 5), 1, 3, 8)
    assert (first.is_rgb, first.is_jpeg, first.is_jfif) == (True, False, False)


def test_reduced_images_are_part_of_their_directory(tmp_path, noise):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(noise, photometric="rgb", subifds=1)
        tiff.write(noise[::2, ::2], photometric="rgb", subfiletype=1)
    (directory,) = directories_of(path)
    assert [reduced.size for reduced in directory.reduced] == [(202, 151)]
    assert directory.end == directory.reduced[0].end > directory.offsets.max()


def test_directories_that_lead_back_to_the_first_are_refused(plain):
    path = plain()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.filehandle.seek(tiff.pages.next_page_offset)
        tiff.filehandle.write(tiff.pages[0].offset.to_bytes(tiff.tiff.offsetsize, "little"))
    with pytest.raises(SlideError, match="truncated or damaged"):
        directories_of(path)
