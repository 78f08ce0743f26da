import numpy as np
import pytest
import shapely

from parfocal.polygons import ClassPolygon
from parfocal.slide.rasterize import fill_polygons


def area(*rings):
    outer, *holes = (np.array(ring, dtype=float) for ring in rings)
    return ClassPolygon(outer, tuple(holes), None, 1)


def square(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def fill(*polygons, shape=(6, 8), scale=(1.0, 1.0)):
    return fill_polygons(polygons, shape, scale).astype(int).tolist()


def test_pixels_whose_center_is_inside_are_filled():
    assert fill(area([[1, 1], [4.4, 1], [4.4, 2.6], [1, 2.6]]), shape=(4, 6)) == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_coordinates_are_scaled_in_both_directions():
    assert fill(area(square(10, 10, 20)), shape=(4, 8), scale=(0.2, 0.1)) == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_a_hole_is_empty_and_an_overlap_is_filled():
    filled = fill_polygons(
        [area(square(0, 0, 6), square(1, 1, 4)), area(square(2, 2, 2))], (6, 6), (1.0, 1.0)
    )
    assert filled.sum() == 36 - 16 + 4
    assert fill_polygons([area(square(0, 0, 6)), area(square(2, 2, 2))], (6, 6), (1, 1)).all()


def test_a_bow_tie_is_filled_on_both_sides():
    bow_tie = area([[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]])
    filled = fill_polygons([bow_tie], (100, 100), (1.0, 1.0))
    assert filled.mean() == pytest.approx(0.5, abs=0.01)
    assert filled[50, 5]
    assert filled[50, 95]
    assert not filled[5, 50]


def test_what_lies_outside_the_picture_is_cut_off():
    assert np.all(fill(area(square(-100, -100, 300))))
    assert not np.any(fill(area(square(100, 100, 5))))
    assert not np.any(fill())


def test_random_polygons_are_filled_as_shapely_has_them():
    generator = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(generator.uniform(0, 2 * np.pi, 9))
        radii = generator.uniform(5, 25, 9)
        corners = 20 + np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
        filled = fill_polygons([area(corners)], (40, 40), (1.0, 1.0))
        y, x = np.mgrid[0.5:40, 0.5:40]
        assert (filled == shapely.contains_xy(shapely.Polygon(corners), x, y)).all()
