import json
import uuid

import numpy as np
import pytest

from parfocal.dataset import CohortError, Outlines, Polygon, read_outlines
from parfocal.dataset.outlines import write_outlines

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]]


def share(outlines: Outlines, x: float, y: float, side: float) -> float:
    return float(outlines.overlap(np.array([x], float), np.array([y], float), side)[0])


def written(folder, content: object):
    path = folder / "lesions.geojson"
    path.write_text(json.dumps(content))
    return path


def test_the_share_of_a_square_inside_is_its_area():
    outlines = Outlines((Polygon(np.array(SQUARE, float)),))
    x, y = np.array([2.0, 8.0, 20.0, -5.0]), np.array([2.0, 8.0, 0.0, -5.0])
    assert outlines.overlap(x, y, 4.0).tolist() == [1.0, 0.25, 0.0, 0.0]
    assert share(outlines, -5, -5, 20) == 0.25


def test_a_triangle_has_half_its_square_whichever_way_it_turns():
    triangle = np.array([[0, 0], [8, 0], [0, 8]], float)
    for ring in (triangle, triangle[::-1]):
        assert share(Outlines((Polygon(ring),)), 0, 0, 8) == pytest.approx(0.5)
        assert share(Outlines((Polygon(ring),)), 4, 4, 4) == 0
        assert share(Outlines((Polygon(ring),)), 2, 2, 4) == pytest.approx(0.5)


def test_a_hole_does_not_count():
    outlines = Outlines((Polygon(np.array(SQUARE, float), (np.array(HOLE, float),)),))
    assert share(outlines, 4, 4, 2) == 0
    assert share(outlines, 0, 0, 10) == pytest.approx(0.96)


def test_the_share_of_any_polygon_is_that_of_points_drawn_in_the_square():
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


def test_outlines_that_overlap_count_at_most_once():
    twice = Outlines((Polygon(np.array(SQUARE, float)),) * 2)
    assert share(twice, 2, 2, 4) == 1


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
    several = {"type": "MultiPolygon", "coordinates": [[SQUARE], [HOLE]]}
    assert len(read_outlines(written(tmp_path, wrap(several))).polygons) == 2


def test_what_is_written_is_what_is_read(tmp_path):
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


def test_shapes_without_area_are_left_out_with_a_warning(tmp_path, caplog):
    path = written(tmp_path, [{"type": "Point", "coordinates": [1, 2]}])
    assert read_outlines(path).polygons == ()
    assert "lesions.geojson: Point left out" in caplog.text


@pytest.mark.parametrize(
    "content",
    [
        3,
        {"a": 1},
        {"type": "Polygon", "coordinates": [[1, 2]]},
        {"type": "MultiPolygon", "coordinates": "none"},
    ],
)
def test_what_is_no_geojson_is_refused(tmp_path, content):
    with pytest.raises(CohortError, match=r"lesions\.geojson: not a GeoJSON file of outlines"):
        read_outlines(written(tmp_path, content))
