"""Read polygons and their classes from GeoJSON, as QuPath and TRIDENT write it."""

import gzip
import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

Ring = Float[np.ndarray, "_ 2"]

SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".geojson.zip", ".zip")
SURFACES = ("Polygon", "MultiPolygon")
CLASS_KEYS = ("classification", "class", "label", "category")  # the first is QuPath's
GZIP_MARK, ZIP_MARK = b"\x1f\x8b", b"PK\x03\x04"
MAX_BYTES = 2**31  # of a decompressed file


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
        ignored: type and number of geometries without area in the file, such as "Point 3", sorted.
    """

    polygons: tuple[ClassPolygon, ...]
    ignored: tuple[str, ...]


def read_polygons(path: Path) -> PolygonFile:
    """Read the polygons of a FeatureCollection, a Feature, a list of Features or a geometry.

    Features without a geometry are skipped, and so are rings of fewer than three corners. A line
    that ends where it begins is the ring of a polygon. The class is QuPath's `classification`, an
    object with a `name` or a text; without one, `class`, `label` or `category`. The file may be
    compressed by gzip, or the only GeoJSON file in a ZIP archive.

    Raises:
        PolygonFileError: the file cannot be read, is not GeoJSON, or has a coordinate that is not
            a finite number.
    """
    polygons: list[ClassPolygon] = []
    ignored = Counter[str]()
    for number, (geometry, name) in enumerate(_features(_read_json(path)), start=1):
        for part in _geometries(geometry, number):
            if part.get("type") in SURFACES:
                polygons.extend(_polygons(part, name, number))
            elif (ring := _closed_line(part, number)) is not None:
                polygons.append(ClassPolygon(ring, (), name, number))
            else:
                ignored[str(part.get("type"))] += 1
    listed = tuple(f"{kind} {count}" for kind, count in sorted(ignored.items()))
    return PolygonFile(tuple(polygons), listed)


def is_polygon_name(name: str) -> bool:
    """Return whether a name is that of a file of polygons."""
    return name.lower().endswith(SUFFIXES)


def _read_json(path: Path) -> object:
    try:
        return json.loads(_decompress(path.read_bytes()).decode("utf-8-sig"))
    except OSError as error:
        raise PolygonFileError(f"the file cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise PolygonFileError("not a GeoJSON file: it is not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise PolygonFileError(f"not a GeoJSON file: it is not JSON ({error})") from None


def _decompress(content: bytes) -> bytes:
    if not content.startswith((GZIP_MARK, ZIP_MARK)):
        return content
    try:
        if content.startswith(GZIP_MARK):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                text = file.read(MAX_BYTES + 1)
        else:
            text = _read_member(zipfile.ZipFile(io.BytesIO(content)))
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise PolygonFileError(
            f"the file cannot be decompressed ({error}); save or copy it again"
        ) from None
    if len(text) > MAX_BYTES:
        raise PolygonFileError("the file is larger than 2 GiB when decompressed")
    return text


def _read_member(archive: zipfile.ZipFile) -> bytes:
    """Read the only GeoJSON file of an archive."""
    names = [
        name
        for name in archive.namelist()
        if name.lower().endswith("json") and not name.startswith("__MACOSX/")
    ]
    if len(names) != 1:
        found = ", ".join(names[:3]) or "none"
        raise PolygonFileError(f"the archive must have exactly one GeoJSON file (found: {found})")
    with archive.open(names[0]) as member:
        return member.read(MAX_BYTES + 1)


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
    names = (_text_of_class(properties.get(key)) for key in CLASS_KEYS)
    return next((name for name in names if name), None)


def _text_of_class(classification: object) -> str | None:
    if isinstance(classification, dict):
        names = classification.get("names")  # QuPath 0.6 and later: derived classes as a list
        if isinstance(names, list) and names and "name" not in classification:
            return ": ".join(map(str, names))
        classification = classification.get("name")
    return classification.strip() if isinstance(classification, str) else None


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


def _closed_line(geometry: Mapping[str, object], number: int) -> Ring | None:
    """Return the corners of a line that ends where it begins; None for anything else."""
    corners = geometry.get("coordinates")
    if geometry.get("type") != "LineString" or not isinstance(corners, list) or len(corners) < 4:
        return None
    ring = _ring(corners, number)
    return ring if (ring[0] == ring[-1]).all() else None


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
        if isinstance(ring, list):  # a height may follow x and y
            ring = [each[:2] if isinstance(each, list) else each for each in ring]
        corners = np.array(ring, dtype=np.float64)
    except (ValueError, TypeError):
        raise PolygonFileError(f"feature {number}: a corner is not a list of numbers") from None
    if corners.ndim != 2 or corners.shape[1] < 2:
        raise PolygonFileError(f"feature {number}: a corner is not a list of two numbers")
    if not np.isfinite(corners).all():
        bad = int(np.flatnonzero(~np.isfinite(corners).all(axis=1))[0]) + 1
        raise PolygonFileError(f"feature {number}: corner {bad} of a ring is not a finite number")
    return corners[:, :2]
