import pytest

from parfocal.slide.readers.image import ArrayScan
from parfocal.slide.readers.openslide import OpenSlideScan
from parfocal.slide.readers.scan import Level, Scan, compute_levels


def test_levels_shrunk_by_a_whole_number_have_it_as_downsample():
    levels = compute_levels(
        [(4443, 3567), (2221, 1783), (1111, 892)]
    )  # remainder dropped, or rounded up
    assert [level.downsample for level in levels] == [1.0, 2.0, 4.0]


def test_other_levels_have_the_mean_quotient_of_width_and_height():
    assert compute_levels([(1000, 800), (514, 411)])[1].downsample == pytest.approx(
        (1000 / 514 + 800 / 411) / 2
    )


def test_a_level_that_fits_a_whole_number_on_one_side_only_has_the_mean_quotient():
    assert compute_levels([(1000, 800), (500, 410)])[1] == Level(500, 410, (2 + 800 / 410) / 2)


def test_arrays_and_files_have_the_same_interface(pyramid, noise):
    for scan in (ArrayScan(noise, vendor="array"), OpenSlideScan(pyramid([noise]))):
        assert isinstance(scan, Scan)
        assert scan.levels == (Level(403, 301, 1.0),)
        assert (scan.read_level(0, 5, 6, 20, 10) == noise[6:16, 5:25]).all()
        scan.close()
