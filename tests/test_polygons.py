import gzip
import io
import json
import zipfile

import pytest

from parfocal.polygons import PolygonFileError, read_polygons

SQUARE = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
HOLE = [[1, 1], [2, 1], [2, 2], [1, 1]]


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def read(tmp_path, content, *, encoding="utf-8"):
    path = tmp_path / "areas.geojson"
    path.write_text(json.dumps(content), encoding=encoding)
    return read_polygons(path)


def test_a_polygon_has_its_rings_and_the_number_of_its_feature(tmp_path):
    content = {"type": "FeatureCollection", "features": [feature(polygon(SQUARE, HOLE))]}
    (found,) = read(tmp_path, content).polygons
    assert found.outer.tolist() == SQUARE
    assert [hole.tolist() for hole in found.holes] == [HOLE]
    assert (found.class_name, found.feature) == (None, 1)


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        ({"name": "Tumor", "color": [200, 0, 0]}, "Tumor"),
        ({"names": ["Tumor", "Positive"]}, "Tumor: Positive"),
        ("Tumor", "Tumor"),
        (None, None),
        ({"name": None}, None),
        ("", None),
    ],
)
def test_the_class_is_read_as_qupath_writes_it(tmp_path, classification, name):
    content = feature(polygon(SQUARE), classification=classification)
    assert read(tmp_path, content).polygons[0].class_name == name


@pytest.mark.parametrize(
    "content",
    [
        polygon(SQUARE),
        feature(polygon(SQUARE)),
        [feature(polygon(SQUARE))],
        {"type": "MultiPolygon", "coordinates": [[SQUARE]]},
        {"type": "GeometryCollection", "geometries": [polygon(SQUARE), {"type": "Point"}]},
        feature(polygon([[x, y, 0.0] for x, y in SQUARE])),
    ],
)
def test_every_form_of_geojson_is_read(tmp_path, content):
    assert [each.outer.tolist() for each in read(tmp_path, content).polygons] == [SQUARE]


def test_a_feature_without_geometry_is_skipped(tmp_path):
    content = [feature(None), feature(polygon(SQUARE))]
    assert [each.feature for each in read(tmp_path, content).polygons] == [2]


def test_a_byte_order_mark_is_read(tmp_path):
    assert len(read(tmp_path, polygon(SQUARE), encoding="utf-8-sig").polygons) == 1


def test_rings_without_area_are_skipped(tmp_path):
    content = [polygon([]), polygon(SQUARE[:2]), polygon(SQUARE, HOLE[:2])]
    (found,) = read(tmp_path, content).polygons
    assert found.holes == ()


def test_geometries_without_area_are_listed(tmp_path):
    content = [{"type": "Point", "coordinates": [1, 2]}, {"type": "LineString"}]
    assert read(tmp_path, [content[0], *content]).ignored == ("LineString 1", "Point 2")


def test_a_line_that_ends_where_it_begins_is_an_area(tmp_path):
    lines = [{"type": "LineString", "coordinates": ring} for ring in (SQUARE, SQUARE[:4])]
    read_file = read(tmp_path, [feature(line, classification="Tumor") for line in lines])
    assert [each.outer.tolist() for each in read_file.polygons] == [SQUARE]
    assert read_file.polygons[0].class_name == "Tumor"
    assert read_file.ignored == ("LineString 1",)


def test_a_height_may_follow_the_coordinates_of_some_corners(tmp_path):
    (found,) = read(tmp_path, polygon([[0, 0, 7], *SQUARE[1:]])).polygons
    assert found.outer.tolist() == SQUARE


@pytest.mark.parametrize("key", ["class", "label", "category"])
def test_the_class_is_read_from_properties_of_other_tools(tmp_path, key):
    content = [feature(polygon(SQUARE), **{key: value}) for value in ("Tumor", {"name": "Tumor"})]
    assert {each.class_name for each in read(tmp_path, content).polygons} == {"Tumor"}
    both = feature(polygon(SQUARE), classification={"name": "Stroma"}, **{key: "Tumor"})
    assert read(tmp_path, both).polygons[0].class_name == "Stroma"


def archive(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name in names:
            opened.writestr(name, json.dumps(polygon(SQUARE)))
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(json.dumps(polygon(SQUARE)).encode()),
        archive("__MACOSX/._a.json", "a.geojson"),
    ],
    ids=["gzip", "zip"],
)
def test_a_compressed_file_is_read(tmp_path, content):
    (tmp_path / "areas.geojson").write_bytes(content)
    assert read_polygons(tmp_path / "areas.geojson").polygons[0].outer.tolist() == SQUARE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"{}" * 99)[:-9], "the file cannot be decompressed"),
        (archive("a.json")[:-9], "the file cannot be decompressed"),
        (archive("a.json", "b.json"), r"one GeoJSON file \(found: a.json, b.json\)"),
        (archive("a.txt"), r"one GeoJSON file \(found: none\)"),
    ],
    ids=["short gzip", "short zip", "two files", "no GeoJSON"],
)
def test_a_damaged_archive_or_one_of_several_files_is_refused(tmp_path, content, message):
    (tmp_path / "areas.zip").write_bytes(content)
    with pytest.raises(PolygonFileError, match=message):
        read_polygons(tmp_path / "areas.zip")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_coordinate_that_is_no_number_is_refused_with_its_feature(tmp_path, value):
    content = [feature(polygon(SQUARE)), feature(polygon([[0, 0], [value, 4], *SQUARE]))]
    with pytest.raises(PolygonFileError, match=r"^feature 2: corner 2 of a ring is not a finite"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ("square", "feature 1: the geometry is not an object"),
        ({"type": "Polygon"}, "feature 1: a polygon is not a list of rings"),
        ({"type": "MultiPolygon"}, "feature 1: the coordinates are not a list"),
        (polygon([["a", "b"]]), "feature 1: a corner is not a list of numbers"),
        (polygon([1, 2, 3]), "feature 1: a corner is not a list of two numbers"),
        (polygon([[1], [2], [3]]), "feature 1: a corner is not a list of two numbers"),
        (polygon([[1, 2], [3]]), "feature 1: a corner is not a list of numbers"),
    ],
)
def test_a_malformed_geometry_is_refused_with_its_feature(tmp_path, geometry, message):
    with pytest.raises(PolygonFileError, match=f"^{message}"):
        read(tmp_path, feature(geometry))


@pytest.mark.parametrize("content", [3, {}, {"features": []}, {"type": "FeatureCollection"}])
def test_json_that_is_no_geojson_is_refused(tmp_path, content):
    with pytest.raises(PolygonFileError, match=r"^not a GeoJSON file"):
        read(tmp_path, content)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[" * 100_000])
def test_a_file_that_is_no_json_is_refused(tmp_path, content):
    path = tmp_path / "areas.geojson"
    path.write_bytes(content)
    with pytest.raises(PolygonFileError, match=r"^not a GeoJSON file"):
        read_polygons(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(PolygonFileError, match="cannot be read"):
        read_polygons(tmp_path / "areas.geojson")
