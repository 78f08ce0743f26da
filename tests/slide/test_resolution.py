import pytest

from parfocal.slide.resolution import magnification_of, mpp_of, near


def test_magnifications_are_said_as_people_say_them():
    assert [magnification_of(mpp) for mpp in (8, 4, 1, 0.25)] == [1.25, 2.5, 10, 40]
    assert magnification_of(0.2428) == 41.2


def test_the_nominal_mpp_of_a_magnification_is_ten_over_it():
    assert [mpp_of(magnification) for magnification in (1.25, 10, 40)] == [8, 1, 0.25]


@pytest.mark.parametrize(("wanted", "serves"), [(0.94, False), (0.95, True), (1.05, True)])
def test_stored_pixels_serve_for_what_is_within_five_percent(wanted, serves):
    assert near(wanted, 1.0) == near(wanted * 0.37, 0.37) == serves
