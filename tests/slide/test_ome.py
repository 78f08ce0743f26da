import pytest

from parfocal.slide.ome import ome_record

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
OME = f'<OME xmlns="{SCHEMA}"><Image><Pixels {{}}/></Image></OME>'


def mpp(attributes):
    return ome_record(OME.format(attributes)).mpp


@pytest.mark.parametrize(
    ("unit", "microns"), [("nm", 1e-3), ("\u00b5m", 1), ("\u03bcm", 1), ("mm", 1e3), ("cm", 1e4)]
)
def test_a_unit_of_length_is_converted(unit, microns):
    size = f'PhysicalSizeX="2" PhysicalSizeXUnit="{unit}"'
    assert mpp(size) == pytest.approx(2 * microns)


def test_a_length_without_a_unit_is_in_microns():
    assert mpp('PhysicalSizeX="0.25" PhysicalSizeY="0.25"') == 0.25


@pytest.mark.parametrize("unit", ["pixel", "reference frame"])
def test_what_is_no_length_is_none(unit):
    assert mpp(f'PhysicalSizeX="2" PhysicalSizeXUnit="{unit}"') is None


def test_what_is_no_number_is_none():
    assert mpp('PhysicalSizeX="0,25"') is None


def test_pixels_that_are_not_square_get_the_mean_and_are_told():
    record = ome_record(OME.format('PhysicalSizeX="0.24" PhysicalSizeY="0.26"'))
    assert record.mpp == 0.25
    assert record.mpp_source.endswith("of the OME-XML, averaged (0.24 and 0.26)")


@pytest.mark.parametrize("axis", ["SizeZ", "SizeT"])
def test_several_planes_are_no_slide(axis):
    assert ome_record(OME.format(f'{axis}="2"')) is None
    assert ome_record(OME.format(f'{axis}="1"')) is not None


def test_xml_that_is_damaged_or_tells_of_no_pixels_is_no_slide():
    assert ome_record("<OME><Image>") is None
    assert ome_record("<OME></OME>") is None
