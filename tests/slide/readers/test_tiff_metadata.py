import numpy as np
import pytest
import tifffile

from parfocal.slide.errors import MissingMppError, NotSquareError
from parfocal.slide.readers.tiff_metadata import ome_metadata, read_ome_images
from parfocal.slide.slide import open_slide

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
OME = f'<OME xmlns="{SCHEMA}"><Image><Pixels {{}}/></Image></OME>'
QPTIFF = (
    '<?xml version="1.0" encoding="utf-16"?><PerkinElmer-QPI-ImageDescription>'
    "<PixelSizeMicrons>0.4988</PixelSizeMicrons></PerkinElmer-QPI-ImageDescription>"
)


@pytest.fixture
def tagged(tmp_path):
    """Return a function that writes a small tiled TIFF with tags for its resolution."""

    def write(description="", *, byteorder="<", bigtiff=False, **options):
        path = tmp_path / "a.tif"
        pixels = np.full((64, 64, 3), 200, np.uint8)
        defaults = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
        with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=bigtiff) as tiff:
            tiff.write(pixels, description=description, **{**defaults, **options})
        return path

    return write


def mpp_of(path):
    with open_slide(path) as slide:
        return slide.mpp, slide.mpp_source


@pytest.mark.parametrize(
    ("unit", "per_unit"),
    [("CENTIMETER", 2e4), ("INCH", 50800), ("MILLIMETER", 2000), ("MICROMETER", 2)],
)
@pytest.mark.parametrize("container", [{}, {"byteorder": ">"}, {"bigtiff": True}])
def test_the_tags_of_resolution_have_units(tagged, unit, per_unit, container):
    path = tagged(resolution=(per_unit, per_unit), resolutionunit=unit, **container)
    assert mpp_of(path) == (pytest.approx(0.5), "file: XResolution and YResolution")


@pytest.mark.parametrize(
    "description",
    [
        "Aperio Image Library v11.2.1|AppMag = 20|MPP = 0.4990|Filtered = 3",
        "Motic V1.0.0 64x64 [0,0 64x64] JPEG/RGB Q = 75|AppMag = 20|MPP = 0.499000",
        "Some scanner\nMPP=0.499",
        QPTIFF.replace("0.4988", "0.499"),
    ],
)
def test_a_description_records_microns_per_pixel(tagged, description):
    assert mpp_of(tagged(description))[0] == pytest.approx(0.499)


def test_a_description_counts_more_than_the_tags(tagged):
    path = tagged("Aperio|MPP = 0.25", resolution=(72, 72), resolutionunit="INCH")
    assert mpp_of(path) == (0.25, "file: MPP of the ImageDescription")


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
def test_imagej_records_a_unit_of_its_own(tagged, unit):
    description = f"ImageJ=1.53t\nunit={unit}\n"
    path = tagged(description, resolution=(2, 2), resolutionunit="NONE")
    assert mpp_of(path) == (0.5, "file: XResolution in ImageJ's unit")


def test_a_resolution_without_a_unit_is_not_used(tagged):
    with pytest.raises(MissingMppError):
        open_slide(tagged(resolution=(2e4, 2e4), resolutionunit="NONE"))


def test_the_dots_per_inch_of_a_printed_picture_are_not_used(tagged):
    with pytest.raises(MissingMppError):
        open_slide(tagged(tile=None, resolution=(600, 600), resolutionunit="INCH"))


def test_pixels_that_are_not_square_are_refused(tagged):
    path = tagged(resolution=(1e4, 2e4), resolutionunit="CENTIMETER")
    message = r"a.tif: the file records pixels of 1 x 0.5 microns, which are not square. Resample"
    with pytest.raises(NotSquareError, match=message):
        open_slide(path)
    with open_slide(path, mpp=0.5) as slide:
        assert slide.mpp == 0.5


def test_pixels_that_are_nearly_square_are_averaged_and_reported(tagged):
    path = tagged(resolution=(1e4 / 0.496, 1e4 / 0.504), resolutionunit="CENTIMETER")
    mpp, source = mpp_of(path)
    assert mpp == pytest.approx(0.5, rel=1e-5)  # older tifffile rounds what it writes
    assert source.endswith("averaged (0.496 and 0.504)")


# --- OME-XML ---


def ome_mpp(attributes):
    return ome_metadata(read_ome_images(OME.format(attributes))[0]).mpp


@pytest.mark.parametrize(
    ("unit", "microns"),
    [
        *(("nm", 1e-3), ("\u00b5m", 1), ("\u03bcm", 1), ("um", 1), ("micron", 1), ("mm", 1e3)),
        *(("cm", 1e4), ("in", 25400), ("\u00c5", 1e-4)),
    ],
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


@pytest.mark.parametrize(
    ("sizes", "planes", "words"),
    [
        ('SizeC="3" SizeZ="1" SizeT="1"', 1, ""),
        ('SizeC="1" SizeZ="5"', 5, "5 depths"),
        ('SizeC="1" SizeT="2"', 2, "2 times"),
    ],
)
def test_the_number_of_planes_is_read_from_the_xml(sizes, planes, words):
    image = read_ome_images(OME.format(sizes))[0]
    assert (image.planes, image.described_planes) == (planes, words)


def test_xml_that_is_damaged_is_an_error():
    with pytest.raises(ValueError, match="its XML is damaged"):
        read_ome_images("<OME><Image>")
