"""Read polygons and their classes from GeoJSON, as QuPath and TRIDENT write it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

Ring = Float[np.ndarray, "_ 2"]

SURFACES = ("Polygon", "MultiPolygon")


class PolygonFileError(Exception):
    """A file of polygons that cannot be used; the message does not name the file."""


@dataclass(frozen=True)
class ClassPolygon:
    """A polygon with the class that its feature has.

    Args:
        outer: corners of the outer ring in level-0 pixels, at least three; the last may repeat the
            first.
        holes: corners of each hole, at least three each.
        class_name: name of the class; None for a feature without a class.
        feature: number of the feature in the file, from 1.
    """

    outer: Ring
    holes: tuple[Ring, ...]
    class_name: str | None
    feature: int


@dataclass(frozen=True)
class PolygonFile:
    """The polygons of a GeoJSON file.

    Args:
        polygons: the polygons, in order.
        ignored: types of geometries without area in the file, such as "Point", sorted.
    """

    polygons: tuple[ClassPolygon, ...]
    ignored: tuple[str, ...]


def read_polygons(path: Path) -> PolygonFile:
    """Read the polygons of a FeatureCollection, a Feature, a list of Features or a geometry.

    Features without a geometry are skipped, and so are rings of fewer than three corners. The
    class is QuPath's `classification`, an object with a `name` or a text.

    Raises:
        PolygonFileError: the file cannot be read, is not GeoJSON, or has a coordinate that is not
            a finite number.
    """
    polygons: list[ClassPolygon] = []
    ignored: set[str] = set()
    for number, (geometry, name) in enumerate(_features(_read_json(path)), start=1):
        for part in _geometries(geometry, number):
            if part.get("type") in SURFACES:
                polygons.extend(_polygons(part, name, number))
            else:
                ignored.add(str(part.get("type")))
    return PolygonFile(tuple(polygons), tuple(sorted(ignored)))


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise PolygonFileError(f"the file cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise PolygonFileError("not a GeoJSON file: it is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise PolygonFileError(f"not a GeoJSON file: it is not JSON ({error})") from None


def _features(content: object) -> Iterator[tuple[object, str | None]]:
    """Yield the geometry and the class name of each feature."""
    if isinstance(content, list):
        for item in content:
            yield from _features(item)
    elif not isinstance(content, dict) or not isinstance(content.get("type"), str):
        raise PolygonFileError("not a GeoJSON file: an object has no type")
    elif content["type"] == "FeatureCollection":
        features = content.get("features")
        if not isinstance(features, list):
            raise PolygonFileError("not a GeoJSON file: the FeatureCollection has no features")
        yield from _features(features)
    elif content["type"] == "Feature":
        yield content.get("geometry"), _class_name(content.get("properties"))
    else:
        yield content, None


def _class_name(properties: object) -> str | None:
    if not isinstance(properties, dict):
        return None
    classification = properties.get("classification")
    if isinstance(classification, dict):
        names = classification.get("names")  # QuPath 0.6 and later: derived classes as a list
        if isinstance(names, list) and names and "name" not in classification:
            return ": ".join(map(str, names))
        classification = classification.get("name")
    return classification if isinstance(classification, str) and classification else None


def _geometries(geometry: object, number: int) -> Iterator[Mapping[str, object]]:
    """Yield the geometries of a feature, none if it has no geometry."""
    if geometry is None:
        return
    if not isinstance(geometry, dict):
        raise PolygonFileError(f"feature {number}: the geometry is not an object")
    if geometry.get("type") == "GeometryCollection":
        members = geometry.get("geometries")
        for member in members if isinstance(members, list) else ():
            yield from _geometries(member, number)
    else:
        yield geometry


def _polygons(
    geometry: Mapping[str, object], name: str | None, number: int
) -> Iterator[ClassPolygon]:
    coordinates = geometry.get("coordinates")
    parts = [coordinates] if geometry["type"] == "Polygon" else coordinates
    if not isinstance(parts, list):
        raise PolygonFileError(f"feature {number}: the coordinates are not a list")
    for rings in parts:
        if not isinstance(rings, list):
            raise PolygonFileError(f"feature {number}: a polygon is not a list of rings")
        if not rings:
            continue
        outer, *holes = (_ring(ring, number) for ring in rings)
        if len(outer) >= 3:
            yield ClassPolygon(outer, tuple(hole for hole in holes if len(hole) >= 3), name, number)


def _ring(ring: object, number: int) -> Ring:
    """Return the corners of a ring, after checking them."""
    if ring == []:
        return np.empty((0, 2))
    try:
        corners = np.array(ring, dtype=np.float64)
    except (ValueError, TypeError):
        raise PolygonFileError(f"feature {number}: a corner is not a list of numbers") from None
    if corners.ndim != 2 or corners.shape[1] < 2:
        raise PolygonFileError(f"feature {number}: a corner is not a list of two numbers")
    if not np.isfinite(corners).all():
        bad = int(np.flatnonzero(~np.isfinite(corners).all(axis=1))[0]) + 1
        raise PolygonFileError(f"feature {number}: corner {bad} of a ring is not a finite number")
    return corners[:, :2]
