import json
import uuid

import numpy as np
import pytest

from explain.demo_folder import DARK, LESION, PINK, painted, prediction, write_json
from parfocal.dataset.outlines import read_outlines
from parfocal.explain.export import Exports, export
from parfocal.explain.geojson import to_geojson, write_geojson
from parfocal.explain.read_record import read_prediction

OBJECT_TYPES = {"annotation", "detection", "tile", "cell"}


@pytest.fixture
def record(tmp_path):
    content = prediction(tmp_path / "a.tif", "f" * 32)
    return read_prediction(write_json(tmp_path / "a.json", content))


def all_features(collection):
    """Return the features and their child objects, as QuPath reads them."""
    waiting = list(collection["features"])
    while waiting:
        feature = waiting.pop(0)
        waiting += feature["properties"].get("childObjects", [])
        yield feature


def box_of(feature):
    (ring,) = feature["geometry"]["coordinates"]
    (left, top), (right, bottom) = np.min(ring, axis=0), np.max(ring, axis=0)
    return left, top, right - left, bottom - top


def test_the_shape_is_the_one_qupath_documents(record):
    collection = json.loads(json.dumps(to_geojson(record)))
    assert collection["type"] == "FeatureCollection"
    for feature in all_features(collection):
        assert feature["type"] == "Feature"
        uuid.UUID(feature["id"])
        assert feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert len(ring) == 5
        properties = feature["properties"]
        assert properties["objectType"] in OBJECT_TYPES
        assert all(isinstance(value, float | int) for value in properties["measurements"].values())
        assert all(isinstance(value, str) for value in properties.get("metadata", {}).values())
        if "classification" in properties:
            assert set(properties["classification"]) == {"name", "color"}
        else:
            assert all(0 <= channel <= 255 for channel in properties["color"])


def test_ids_tell_objects_apart_and_stay_the_same(record):
    ids = [feature["id"] for feature in all_features(to_geojson(record))]
    assert len(set(ids)) == len(ids) == 8
    assert ids == [feature["id"] for feature in all_features(to_geojson(record))]


def test_what_was_found_by_zooming_in_stands_inside(record):
    tiles = [
        feature
        for feature in to_geojson(record)["features"]
        if feature["properties"]["objectType"] == "tile"
    ]
    assert [len(tile["properties"].get("childObjects", [])) for tile in tiles] == [2, 0, 0, 0]
    assert tiles[0]["properties"]["metadata"]["zoomed into"] == "true"
    child = tiles[0]["properties"]["childObjects"][0]["properties"]
    assert child["measurements"]["attention at 10x"] == 0.9
    assert tiles[0]["properties"]["measurements"]["zoom attention at 2.5x"] == 0.7


def test_the_top_patch_lies_on_the_painted_lesion(record):
    x, y, width, height = map(int, box_of(to_geojson(record)["features"][0]))
    pixels = painted()
    assert (pixels[y : y + height, x : x + width] == DARK).all()
    assert (pixels[y - 1, x : x + width] == PINK).all()


def test_annotations_are_the_top_patches_of_the_highest_magnification(record):
    annotations = [
        feature["properties"]
        for feature in to_geojson(record)["features"]
        if feature["properties"]["objectType"] == "annotation"
    ]
    assert [each["name"] for each in annotations] == [
        "#1, 10x, attention 0.9",
        "#2, 10x, attention 0.1",
    ]
    assert annotations[0]["classification"]["name"] == "tumor"


def test_coordinates_can_start_at_the_scanned_bounds(record):
    shifted = to_geojson(record, offset=(100.0, 50.0))["features"][0]
    assert box_of(shifted) == (LESION[0] - 100, LESION[1] - 50, LESION[2], LESION[2])


def test_patches_that_were_not_visited_are_left_out(tmp_path):
    content = prediction(tmp_path / "a.tif", "f" * 32)
    content["regions"][-1]["order"] = None
    record = read_prediction(write_json(tmp_path / "a.json", content))
    assert len(list(all_features(to_geojson(record)))) == 6


def test_exported_outlines_are_read_as_lesions(record, tmp_path):
    write_geojson(record, tmp_path / "a.geojson")
    drawn = read_outlines(tmp_path / "a.geojson").polygons[0].outer
    assert drawn[0].tolist() == [LESION[0], LESION[1]]


def test_only_the_requested_exports_are_written(record, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(record, out, Exports())
    assert list(out.iterdir()) == []
    export(record, out, Exports(geojson=True, overlay=True))
    assert sorted(path.name for path in out.iterdir()) == ["a.geojson", "a.ome.tif"]


def test_a_slide_without_bounds_is_counted_from_its_corner(folder, tmp_path):
    record = read_prediction(folder / "predictions" / "a.json")
    export(record, tmp_path, Exports(geojson=True, from_bounds=True))
    written = json.loads((tmp_path / "a.geojson").read_text())
    assert box_of(written["features"][0])[:2] == LESION[:2]
