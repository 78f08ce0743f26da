import numpy as np
import pytest
import tifffile

from parfocal.cost import CostMeter
from parfocal.slide.array import ArrayScan
from parfocal.slide.errors import MissingMppError
from parfocal.slide.openslide import OpenSlideScan
from parfocal.slide.slide import Box, open_slide
from parfocal.slide.tiled import open_tiled


def is_left(path):
    return open_tiled(path, OpenSlideScan(path), CostMeter()) is None


def change(path, tag, value):
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[tag].overwrite(value)
    return path


@pytest.fixture
def ome(tmp_path, picture):
    """Write the picture as an OME-TIFF of three levels."""

    def write(pixels=picture, axes="YXS", **metadata):
        path = tmp_path / "a.ome.tif"
        options = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
        with tifffile.TiffWriter(path, ome=True) as tiff:
            tiff.write(pixels, subifds=2, metadata={"axes": axes, **metadata}, **options)
            for step in (2, 4):
                tiff.write(pixels[..., ::step, ::step, :], subfiletype=1, **options)
        return path

    return write


# --- what is left to OpenSlide ---


def test_another_vendors_tiles_are_left_to_openslide(plain, picture):
    assert open_tiled(plain(), ArrayScan(picture, vendor="ventana"), CostMeter()) is None


def test_other_pixels_than_8_bit_rgb_are_left_to_openslide(plain, picture):
    assert is_left(plain(picture[..., 0], photometric="minisblack"))
    assert is_left(plain(np.dstack([picture, picture[..., 0]]), extrasamples=["unassalpha"]))
    assert is_left(plain(picture.astype(np.uint16) * 257))


def test_planes_of_one_color_each_are_left_to_openslide(tmp_path, picture):
    path, planes = tmp_path / "a.tif", np.moveaxis(picture, 2, 0).copy()
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", tile=(64, 64))
    assert is_left(path)


def test_a_coding_that_is_not_tried_is_left_to_openslide(plain):
    assert is_left(plain(compression="zstd"))


def test_a_turned_picture_is_left_to_openslide(plain):
    assert is_left(plain(extratags=[(274, 3, 1, 3, True)]))


def test_tiles_that_say_other_colors_than_their_tag_are_left_to_openslide(plain):
    rgb = 2
    assert is_left(change(plain(compression="jpeg"), "PhotometricInterpretation", rgb))


def test_a_file_with_a_tile_that_is_not_stored_is_left_to_openslide(plain):
    path = plain(compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        counts = tiff.pages[0].databytecounts
    assert is_left(change(path, "TileByteCounts", (0, *counts[1:])))
    with open_slide(path) as slide:
        assert (slide.read(Box(0, 0, 64, 64), 0.5) == 255).all()


def test_two_pictures_of_the_size_of_a_level_are_left_to_openslide(plain, picture):
    path = plain()
    tifffile.imwrite(path, picture, append=True, photometric="rgb", tile=(64, 64), metadata=None)
    assert is_left(path)


def test_damaged_tags_are_left_to_openslide(ome):
    path = ome()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].pages[0].tags["TileWidth"].overwrite(0)
    assert is_left(path)


# --- OME-TIFF ---


def test_an_ome_tiff_has_all_its_levels(ome, picture):
    with open_slide(ome(PhysicalSizeX=0.5, PhysicalSizeY=0.5)) as slide:
        assert [(level.width, level.downsample) for level in slide.levels] == [
            *((440, 1.0), (220, 2.0), (110, 4.0))
        ]
        assert slide.vendor == "ome-tiff"
        assert (slide.read(Box(0, 0, 440, 304), 1.0) == picture[::2, ::2]).all()
        assert slide.bill.close().pixels_decoded == 220 * 152


def test_the_mpp_of_an_ome_tiff_is_that_of_its_xml(ome):
    sizes = {"PhysicalSizeX": 250.0, "PhysicalSizeY": 250.0}
    units = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}
    with open_slide(ome(**sizes, **units)) as slide:
        assert slide.mpp == 0.25
        assert slide.mpp_source == "file: PhysicalSizeX and PhysicalSizeY of the OME-XML"


def test_an_ome_tiff_without_a_pixel_size_is_asked_for_one(ome):
    with pytest.raises(MissingMppError, match=r"a.ome.tif: the file records no microns per pixel"):
        open_slide(ome())


def test_planes_at_several_depths_are_not_taken_for_a_slide(ome, picture):
    path = ome(np.stack([picture, picture]), axes="ZYXS")
    assert is_left(path)


def test_a_real_ome_tiff_is_read(real):
    path = real("slides/OS-1-detail.ome.tif")
    with open_slide(path) as slide:
        pixels = slide.read(Box(0, 0, *slide.size), slide.mpp)
    assert slide.mpp == pytest.approx((0.2270972430394695 + 0.22710240047237298) / 2)
    assert (pixels == tifffile.imread(path)).all()
