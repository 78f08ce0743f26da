import json
import math
import time
import uuid

import numpy as np
import pytest

from parfocal.dataset import CohortError, Outlines, Polygon, read_outlines
from parfocal.dataset.outlines import write_outlines

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]]


def share(outlines: Outlines, x: float, y: float, side: float) -> float:
    return float(outlines.overlap(np.array([x], float), np.array([y], float), side)[0])


def feature(ring: list[list[float]], name: str | None = None) -> dict[str, object]:
    geometry = {"type": "Polygon", "coordinates": [ring]}
    properties = {"classification": {"name": name}} if name else {}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def written(folder, content: object):
    path = folder / "lesions.geojson"
    path.write_text(json.dumps(content))
    return path


def test_the_share_of_a_square_inside_is_its_area():
    outlines = Outlines((Polygon(np.array(SQUARE, float)),))
    x, y = np.array([2.0, 8.0, 20.0, -5.0]), np.array([2.0, 8.0, 0.0, -5.0])
    assert outlines.overlap(x, y, 4.0).tolist() == [1.0, 0.25, 0.0, 0.0]
    assert share(outlines, -5, -5, 20) == 0.25


def test_a_triangle_covers_half_of_its_square_in_either_orientation():
    triangle = np.array([[0, 0], [8, 0], [0, 8]], float)
    for ring in (triangle, triangle[::-1]):
        assert share(Outlines((Polygon(ring),)), 0, 0, 8) == pytest.approx(0.5)
        assert share(Outlines((Polygon(ring),)), 4, 4, 4) == 0
        assert share(Outlines((Polygon(ring),)), 2, 2, 4) == pytest.approx(0.5)


def test_a_hole_does_not_count():
    outlines = Outlines((Polygon(np.array(SQUARE, float), (np.array(HOLE, float),)),))
    assert share(outlines, 4, 4, 2) == 0
    assert share(outlines, 0, 0, 10) == pytest.approx(0.96)


def test_the_share_of_a_polygon_is_the_share_of_random_points_inside():
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = rng.uniform(20, 60, 40)
    star = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1) + 1e5
    outlines = Outlines((Polygon(star),))
    points = rng.uniform(0, 30, (20_000, 2))
    for x, y in rng.uniform(-60, 40, (5, 2)) + 1e5:
        inside = np.array([False] * len(points))
        px, py = points[:, 0] + x, points[:, 1] + y
        for (x0, y0), (x1, y1) in zip(star, np.roll(star, -1, axis=0), strict=True):
            crosses = (y0 > py) != (y1 > py)
            inside ^= crosses & (px < x0 + (py - y0) / (y1 - y0) * (x1 - x0))
        expected = inside.mean()
        error = np.sqrt(expected * (1 - expected) / len(points)) + 1e-4
        assert abs(share(outlines, x, y, 30) - expected) < 4 * error


def clamped_area(ring, x, y, side):
    """Shoelace formula with the ring clamped to the square, edge by edge, without a library.

    Each edge adds the integral over x, within the columns of the square, of how far the edge lies
    above the lower side of the square.
    """
    total = 0.0
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        start, stop = np.clip(x0 - x, 0, side), np.clip(x1 - x, 0, side)
        if start == stop:
            continue
        slope = (y1 - y0) / (x1 - x0)
        from_y, to_y = (y0 + slope * (at + x - x0) - y for at in (start, stop))
        # The mean of clip(v, 0, side) for v from `from_y` to `to_y`, in closed form.
        low, high = (np.clip(v, 0, side) ** 2 / 2 + side * max(v - side, 0) for v in (from_y, to_y))
        if abs(to_y - from_y) < 1e-6 * side:
            mean = np.clip((from_y + to_y) / 2, 0, side)
        else:
            mean = (high - low) / (to_y - from_y)
        total += (stop - start) * mean
    return abs(total)


def star(generator, corners, center, radius):
    """A polygon that does not cross itself."""
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radii = generator.uniform(0.4, 1, corners)[:, None] * radius
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii + center


def test_the_share_equals_a_plain_computation_edge_by_edge():
    generator = np.random.default_rng(0)
    centers = (generator.permutation(100)[:12, None] // (1, 10) % 10 * 100 + 5e4).astype(float)
    stars = [star(generator, 20, center, 48) for center in centers]
    holes = [star(generator, 9, center, 15) for center in centers]
    outlines = Outlines(tuple(Polygon(a, (b,)) for a, b in zip(stars, holes, strict=True)))
    x, y = generator.uniform(5e4 - 60, 5e4 + 1000, (2, 120))
    expected = [
        sum(
            clamped_area(outer, *corner, 37.5) - clamped_area(hole, *corner, 37.5)
            for outer, hole in zip(stars, holes, strict=True)
        )
        for corner in zip(x, y, strict=True)
    ]
    assert 10 < np.count_nonzero(expected) < 110
    assert outlines.overlap(x, y, 37.5) == pytest.approx(np.array(expected) / 37.5**2, abs=1e-9)


@pytest.mark.slow
def test_the_share_is_exact_in_a_lesion_of_very_many_corners():
    generator = np.random.default_rng(0)
    outer = star(generator, 9000, np.array([5e4, 5e4]), 500)
    hole = star(generator, 2000, np.array([5e4, 5e4]), 150)
    x, y = generator.uniform(5e4 - 520, 5e4 + 480, (2, 40))
    expected = [
        clamped_area(outer, *corner, 37.5) - clamped_area(hole, *corner, 37.5)
        for corner in zip(x, y, strict=True)
    ]
    assert np.count_nonzero(expected) > 20
    shares = Outlines((Polygon(outer, (hole,)),)).overlap(x, y, 37.5)
    assert shares == pytest.approx(np.array(expected) / 37.5**2, abs=1e-9)


def test_the_share_of_ten_thousand_squares_in_a_thousand_lesions_takes_under_three_seconds():
    generator = np.random.default_rng(0)
    centers = np.stack(np.meshgrid(range(40), range(25)), axis=2).reshape(-1, 2) * 1000.0
    outlines = Outlines(tuple(Polygon(star(generator, 100, center, 480)) for center in centers))
    x, y = np.stack(np.meshgrid(range(100), range(100))).reshape(2, -1) * 256.0
    start = time.process_time()
    shares = outlines.overlap(x, y, 256.0)
    assert time.process_time() - start < 3
    assert 0.2 < shares.mean() < 0.5


def test_an_area_inside_several_outlines_counts_once():
    square = Polygon(np.array(SQUARE, float))
    shifted = Polygon(square.outer + np.array([5, 0]))
    assert share(Outlines((square, square)), 2, 2, 4) == 1
    assert share(Outlines((square, shifted)), 0, 0, 20) == pytest.approx(150 / 400)


def test_a_square_that_only_meets_the_edge_of_a_lesion_has_no_share():
    outlines = Outlines((Polygon(np.array(SQUARE, float)),))
    assert share(outlines, 10, 0, 4) == share(outlines, 10, 10, 4) == 0


def test_a_ring_that_crosses_itself_keeps_both_of_its_parts():
    crossed = np.array([[0, 0], [10, 10], [10, 0], [0, 10]], float)
    assert share(Outlines((Polygon(crossed),)), 0, 0, 10) == pytest.approx(0.5)


def test_a_ring_without_area_has_no_share():
    line, point = np.array([[0, 0], [5, 5], [0, 0]], float), np.array([[1, 1]], float)
    outlines = Outlines((Polygon(line), Polygon(point), Polygon(np.array(SQUARE, float), (point,))))
    assert share(outlines, 0, 0, 20) == 0.25


@pytest.mark.parametrize(
    "wrap",
    [
        lambda geometry: geometry,
        lambda geometry: {"type": "Feature", "properties": {}, "geometry": geometry},
        lambda geometry: [{"type": "Feature", "geometry": geometry}],
        lambda geometry: {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "geometry": geometry}],
        },
        lambda geometry: {"type": "GeometryCollection", "geometries": [geometry]},
    ],
)
def test_geojson_is_read_however_it_is_wrapped(tmp_path, wrap):
    polygon = {"type": "Polygon", "coordinates": [SQUARE, HOLE]}
    (read,) = read_outlines(written(tmp_path, wrap(polygon))).polygons
    assert read.outer.tolist() == SQUARE
    assert read.holes[0].tolist() == HOLE
    two = {"type": "MultiPolygon", "coordinates": [[SQUARE], [HOLE]]}
    assert len(read_outlines(written(tmp_path, wrap(two))).polygons) == 2


def test_outlines_are_read_as_they_were_written(tmp_path):
    drawn = Outlines((Polygon(np.array(SQUARE, float), (np.array(HOLE, float),)),))
    write_outlines(tmp_path / "a.geojson", drawn)
    (read,) = read_outlines(tmp_path / "a.geojson").polygons
    assert (read.outer.tolist(), read.holes[0].tolist()) == (SQUARE, HOLE)
    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert uuid.UUID(feature["id"])  # QuPath ignores any other id
    assert feature["properties"]["objectType"] == "annotation"


def test_a_slide_without_lesions_has_none(tmp_path):
    outlines = read_outlines(written(tmp_path, {"type": "FeatureCollection", "features": []}))
    assert share(outlines, 0, 0, 10) == 0


def test_shapes_without_area_are_ignored_with_a_warning(tmp_path, caplog):
    point = {"type": "Point", "coordinates": [1, 2]}
    assert len(read_outlines(written(tmp_path, [point, feature(SQUARE)])).polygons) == 1
    assert "lesions.geojson: ignored Point 1, which have no area" in caplog.text
    with pytest.raises(CohortError, match=r"no geometry has an area \(found: Point 1\); draw"):
        read_outlines(written(tmp_path, [point]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "not a GeoJSON file: an object has no type"),
        ({"a": 1}, "not a GeoJSON file: an object has no type"),
        ({"type": "Polygon", "coordinates": [[1, 2]]}, "feature 1: a corner is not a list of two"),
        ({"type": "MultiPolygon", "coordinates": "none"}, "feature 1: the coordinates are not a"),
        ([feature(SQUARE), feature([[1, 2], [3, math.nan], [5, 6]])], "feature 2: corner 2 of a"),
        (feature([[1, 2], [3, math.inf], [5, 6]]), "feature 1: corner 2 of a ring is not a finite"),
    ],
)
def test_a_file_that_is_not_geojson_is_refused(tmp_path, content, message):
    with pytest.raises(CohortError, match=rf"lesions\.geojson: {message}.*export polygons as"):
        read_outlines(written(tmp_path, content))


def test_a_byte_order_mark_and_features_without_a_geometry_are_no_matter(tmp_path):
    path = written(tmp_path, [feature(SQUARE), {"type": "Feature", "geometry": None}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (read,) = read_outlines(path).polygons
    assert read.outer.tolist() == SQUARE


def test_classes_are_selected_by_name_or_pattern(tmp_path):
    names = ["Tumor", "Stroma", "tumor bed", None, "Tumor"]
    path = written(tmp_path, [feature(SQUARE, name) for name in names])

    def selected(*classes: str) -> list[str | None]:
        return [polygon.class_name for polygon in read_outlines(path, classes=classes).polygons]

    assert selected() == names
    assert selected("tumor") == ["Tumor", "Tumor"]
    assert selected("Tumor*", "STROMA") == ["Tumor", "Stroma", "tumor bed", "Tumor"]
    assert selected("none") == []
    counts = {"Tumor": 2, "Stroma": 1, "tumor bed": 1, "": 1}
    assert read_outlines(path, classes=("Stroma",)).class_counts == counts


def test_an_offset_moves_every_corner(tmp_path):
    path = written(tmp_path, {"type": "Polygon", "coordinates": [SQUARE, HOLE]})
    (moved,) = read_outlines(path, offset=(100, -5.5)).polygons
    assert moved.outer[:2].tolist() == [[100, -5.5], [110, -5.5]]
    assert moved.holes[0][0].tolist() == [104, -1.5]


def test_polygons_that_cross_themselves_are_counted():
    bow_tie, square = np.array([[0, 0], [9, 9], [9, 0], [0, 9]], float), np.array(SQUARE, float)
    assert Outlines((Polygon(bow_tie), Polygon(square))).crossing == 1
    assert Outlines(()).crossing == 0
