import numpy as np
import openslide
import pytest
import tifffile

from parfocal.cost import CostMeter
from parfocal.slide.errors import MissingMppError
from parfocal.slide.readers.opening import open_scan
from parfocal.slide.readers.tiled_tiff import TiledTiffScan, ome_metadata
from parfocal.slide.slide import Box, open_slide

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
OME = f'<OME xmlns="{SCHEMA}"><Image><Pixels {{}}/></Image></OME>'


def is_read_directly(path):
    return isinstance(open_scan(path, CostMeter()), TiledTiffScan)


def change(path, tag, value):
    """Overwrite a tag of the first directory."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[tag].overwrite(value)
    return path


@pytest.fixture
def ome(tmp_path, picture):
    """Return a function that writes the picture as an OME-TIFF with three levels."""

    def write(pixels=picture, axes="YXS", **metadata):
        path = tmp_path / "a.ome.tif"
        options = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
        with tifffile.TiffWriter(path, ome=True) as tiff:
            tiff.write(pixels, subifds=2, metadata={"axes": axes, **metadata}, **options)
            for step in (2, 4):
                tiff.write(pixels[..., ::step, ::step, :], subfiletype=1, **options)
        return path

    return write


# --- which files are read directly ---


def test_a_plain_pyramid_is_read_directly(plain):
    assert is_read_directly(plain(compression="deflate"))


def test_files_of_other_vendors_are_left_to_openslide(plain, monkeypatch):
    properties = {openslide.PROPERTY_NAME_VENDOR: "ventana"}
    monkeypatch.setattr(openslide.OpenSlide, "properties", properties)
    assert not is_read_directly(plain())


def test_pixels_other_than_8_bit_rgb_are_left_to_openslide(plain, picture):
    assert not is_read_directly(plain(picture[..., 0], photometric="minisblack"))
    rgba = np.dstack([picture, picture[..., 0]])
    assert not is_read_directly(plain(rgba, extrasamples=["unassalpha"]))
    assert not is_read_directly(plain(picture.astype(np.uint16) * 257))


def test_separate_color_planes_are_left_to_openslide(tmp_path, picture):
    path, planes = tmp_path / "a.tif", np.moveaxis(picture, 2, 0).copy()
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", tile=(64, 64))
    assert not is_read_directly(path)


def test_other_encodings_are_left_to_openslide(plain):
    assert not is_read_directly(plain(compression="zstd"))


def test_a_rotated_image_is_left_to_openslide(plain):
    assert not is_read_directly(plain(extratags=[(274, 3, 1, 3, True)]))


def test_tiles_whose_colors_contradict_the_tag_are_left_to_openslide(plain):
    rgb = 2
    assert not is_read_directly(change(plain(compression="jpeg"), "PhotometricInterpretation", rgb))


def test_a_file_with_a_tile_that_is_not_stored_is_left_to_openslide(plain):
    path = plain(compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        counts = tiff.pages[0].databytecounts
    assert not is_read_directly(change(path, "TileByteCounts", (0, *counts[1:])))
    with open_slide(path) as slide:
        assert (slide.read(Box(0, 0, 64, 64), 0.5) == 255).all()


def test_two_images_of_the_size_of_a_level_are_left_to_openslide(plain, picture):
    path = plain()
    tifffile.imwrite(path, picture, append=True, photometric="rgb", tile=(64, 64), metadata=None)
    assert not is_read_directly(path)


def test_damaged_tags_are_left_to_openslide(ome):
    path = ome()
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].pages[0].tags["TileWidth"].overwrite(0)
    assert not is_read_directly(path)


# --- OME-TIFF ---


def test_an_ome_tiff_has_all_its_levels(ome, picture):
    with open_slide(ome(PhysicalSizeX=0.5, PhysicalSizeY=0.5)) as slide:
        assert [(level.width, level.downsample) for level in slide.levels] == [
            *((440, 1.0), (220, 2.0), (110, 4.0))
        ]
        assert slide.vendor == "ome-tiff"
        assert (slide.read(Box(0, 0, 440, 304), 1.0) == picture[::2, ::2]).all()
        assert slide.cost_meter.total().pixels_decoded == 220 * 152


def test_the_mpp_of_an_ome_tiff_comes_from_its_xml(ome):
    sizes = {"PhysicalSizeX": 250.0, "PhysicalSizeY": 250.0}
    units = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}
    with open_slide(ome(**sizes, **units)) as slide:
        assert slide.mpp == 0.25
        assert slide.mpp_source == "file: PhysicalSizeX and PhysicalSizeY of the OME-XML"


def test_an_ome_tiff_without_a_pixel_size_is_refused(ome):
    with pytest.raises(MissingMppError, match=r"a.ome.tif: the file records no microns per pixel"):
        open_slide(ome())


def test_an_ome_tiff_with_several_depths_is_not_read_directly(ome, picture):
    path = ome(np.stack([picture, picture]), axes="ZYXS")
    assert not is_read_directly(path)


def test_a_real_ome_tiff_is_read(real):
    path = real("slides/OS-1-detail.ome.tif")
    with open_slide(path) as slide:
        pixels = slide.read(Box(0, 0, *slide.size), slide.mpp)
    assert slide.mpp == pytest.approx((0.2270972430394695 + 0.22710240047237298) / 2)
    assert (pixels == tifffile.imread(path)).all()


# --- OME-XML ---


def ome_mpp(attributes):
    return ome_metadata(OME.format(attributes)).mpp


@pytest.mark.parametrize(
    ("unit", "microns"), [("nm", 1e-3), ("\u00b5m", 1), ("\u03bcm", 1), ("mm", 1e3), ("cm", 1e4)]
)
def test_a_unit_of_length_is_converted(unit, microns):
    size = f'PhysicalSizeX="2" PhysicalSizeXUnit="{unit}"'
    assert ome_mpp(size) == pytest.approx(2 * microns)


def test_a_length_without_a_unit_is_in_microns():
    assert ome_mpp('PhysicalSizeX="0.25" PhysicalSizeY="0.25"') == 0.25


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def test_a_unit_that_is_not_a_length_is_ignored(unit):
    assert ome_mpp(f'PhysicalSizeX="2" PhysicalSizeXUnit="{unit}"') is None


def test_a_length_that_is_not_a_number_is_ignored():
    assert ome_mpp('PhysicalSizeX="0,25"') is None


def test_the_mpp_of_pixels_that_are_not_square_is_averaged_and_reported():
    metadata = ome_metadata(OME.format('PhysicalSizeX="0.24" PhysicalSizeY="0.26"'))
    assert metadata.mpp == 0.25
    assert metadata.mpp_source.endswith("of the OME-XML, averaged (0.24 and 0.26)")


@pytest.mark.parametrize("axis", ["SizeZ", "SizeT"])
def test_xml_with_several_planes_is_refused(axis):
    assert ome_metadata(OME.format(f'{axis}="2"')) is None
    assert ome_metadata(OME.format(f'{axis}="1"')) is not None


def test_xml_that_is_damaged_or_has_no_pixels_is_refused():
    assert ome_metadata("<OME><Image>") is None
    assert ome_metadata("<OME></OME>") is None
