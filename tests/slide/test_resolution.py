import pytest

from parfocal.slide.resolution import magnification_of, mpp_of, same_resolution


def test_a_magnification_has_three_significant_digits():
    assert [magnification_of(mpp) for mpp in (8, 4, 1, 0.25)] == [1.25, 2.5, 10, 40]
    assert magnification_of(0.2428) == 41.2


def test_the_nominal_mpp_is_ten_over_the_magnification():
    assert [mpp_of(magnification) for magnification in (1.25, 10, 40)] == [8, 1, 0.25]


@pytest.mark.parametrize(("requested", "same"), [(0.94, False), (0.95, True), (1.05, True)])
def test_resolutions_within_five_percent_are_the_same(requested, same):
    assert same_resolution(requested, 1.0) == same_resolution(requested * 0.37, 0.37) == same
