import numpy as np
import pytest

from parfocal.slide.shrink import shrink, shrink_whole


def test_a_partly_covered_pixel_counts_by_its_share():
    row = np.repeat(np.array([[[0], [90], [180]]], dtype=np.uint8), 3, axis=2)
    pixels = shrink(row, np.array([0.0, 1.0]), np.array([0.0, 1.5, 3.0]))
    assert pixels[0, :, 0].tolist() == [30, 150]  # (0 + 90 / 2) / 1.5, (90 / 2 + 180) / 1.5


def test_the_result_may_begin_inside_a_pixel():
    row = np.repeat(np.array([[[0], [90], [180]]], dtype=np.uint8), 3, axis=2)
    assert shrink(row, np.array([0.0, 1.0]), np.array([0.5, 2.5]))[0, 0, 0] == 90


def test_white_stays_white_at_any_ratio():
    white = np.full((97, 101, 3), 255, dtype=np.uint8)
    for count in (1, 13, 60, 96):
        rows, columns = np.linspace(0, 97, count + 1), np.linspace(0, 101, count + 1)
        assert (shrink(white, rows, columns) == 255).all()


def test_whole_blocks_are_averaged_and_rounded(noise):
    blocks = noise[:300, :400].reshape(150, 2, 100, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrink_whole(noise[:300, :400], (4, 2)) - blocks).max() <= 0.5


def test_a_factor_of_one_copies_the_pixels(noise):
    same = shrink_whole(noise, (1, 1))
    assert (same == noise).all()
    assert not np.shares_memory(same, noise)


@pytest.mark.parametrize("step", [1.7, 2.5, 3.3])
def test_averages_are_rounded_as_exact_numbers_are(noise, area_resize, step):
    """Single precision would round some averages near a half the other way."""
    pixels = noise[:300, :400]
    size = int(400 / step), int(300 / step)
    rows, columns = (np.arange(count + 1) * step for count in size[::-1])
    exact = area_resize(pixels, 0, 0, step, size)
    assert (shrink(pixels, rows, columns) == np.rint(np.round(exact, 9))).all()
