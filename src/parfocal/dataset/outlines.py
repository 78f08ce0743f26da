"""Lesion outlines of a slide, and the share of a square that lies inside them."""

import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely
from jaxtyping import Float, Real

from parfocal.dataset.cohort import CohortError
from parfocal.files import whole_file

logger = logging.getLogger(__name__)

Ring = Float[np.ndarray, "_ 2"]


@dataclass(frozen=True)
class Polygon:
    """An outer ring and its holes.

    Args:
        outer: corners in level-0 pixels; the ring may or may not repeat its first corner.
        holes: corners of each hole, in level-0 pixels.
    """

    outer: Ring
    holes: tuple[Ring, ...] = ()


@dataclass(frozen=True)
class Outlines:
    """The lesions of a slide.

    Args:
        polygons: the lesions, in level-0 pixels. They may overlap, and a ring may cross itself,
            as rings drawn by hand do.
    """

    polygons: tuple[Polygon, ...]

    def overlap(
        self, x: Real[np.ndarray, " n"], y: Real[np.ndarray, " n"], side: float
    ) -> Float[np.ndarray, " n"]:
        """Compute the share of each square that lies inside lesions.

        The share is exact, in 0..1; an area inside several lesions counts once.

        Args:
            x: left edges, in level-0 pixels.
            y: upper edges, in level-0 pixels.
            side: side of the squares, in level-0 pixels.
        """
        squares = shapely.box(x, y, x + side, y + side)
        lesions = self._tree.geometries
        shapely.prepare(lesions)  # makes the two predicates below fast for lesions of many corners
        square, lesion = self._tree.query(squares)
        touching = shapely.intersects(lesions[lesion], squares[square])
        square, lesion = square[touching], lesion[touching]
        # An intersection takes time in proportion to the corners of the lesion, so it is computed
        # only for the squares that an outline crosses.
        crossed = ~shapely.covers(lesions[lesion], squares[square])
        area = np.full(len(square), float(side**2))
        area[crossed] = shapely.area(
            shapely.intersection(lesions[lesion[crossed]], squares[square[crossed]])
        )
        total = np.bincount(square, weights=area, minlength=len(squares))
        return np.asarray(np.clip(total / side**2, 0, 1))

    @cached_property
    def _tree(self) -> shapely.STRtree:
        """Spatial index of the lesions, merged where they overlap."""
        polygons = np.array([to_shapely(polygon) for polygon in self.polygons], dtype=object)
        # "structure" keeps all area inside a ring that crosses itself; "linework" leaves holes.
        valid = shapely.make_valid(polygons, method="structure", keep_collapsed=False)
        return shapely.STRtree(shapely.get_parts(shapely.disjoint_subset_union_all(valid)))


def to_shapely(polygon: Polygon) -> shapely.Polygon:
    """Convert a polygon; a ring of fewer than three corners has no area and is ignored."""
    if len(polygon.outer) < 3:
        return shapely.Polygon()
    return shapely.Polygon(polygon.outer, [hole for hole in polygon.holes if len(hole) >= 3])


def read_outlines(path: Path) -> Outlines:
    """Read polygons from a GeoJSON file in level-0 pixels, as QuPath writes it.

    The file holds a FeatureCollection, a Feature, a list of Features or a geometry. Points and
    lines have no area: they are ignored with a warning.

    Raises:
        CohortError: the file cannot be read or is not GeoJSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        geometries = list(_geometries(content))
        polygons = tuple(polygon for geometry in geometries for polygon in _polygons(geometry))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CohortError(
            f"{path.name}: not a GeoJSON file of outlines ({type(error).__name__}: {error}); "
            "export polygons in level-0 pixels."
        ) from None
    ignored = {str(geometry["type"]) for geometry in geometries} - {"Polygon", "MultiPolygon"}
    if ignored:
        logger.warning("%s: ignored %s: it has no area", path.name, ", ".join(sorted(ignored)))
    return Outlines(polygons)


def write_outlines(path: Path, outlines: Outlines) -> None:
    """Write outlines as GeoJSON that QuPath opens and `read_outlines` reads.

    Args:
        path: file to write; an existing file is replaced.
        outlines: tumor outlines, in level-0 pixels.
    """
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{path.stem}/{number}")),
            "geometry": {
                "type": "Polygon",
                "coordinates": [ring.tolist() for ring in (polygon.outer, *polygon.holes)],
            },
            "properties": {
                "objectType": "annotation",
                "name": f"tumor {number}",
                "classification": {"name": "tumor", "color": [200, 0, 0]},
            },
        }
        for number, polygon in enumerate(outlines.polygons, start=1)
    ]
    with whole_file(path) as part:
        part.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _geometries(content: object) -> Iterator[dict[str, object]]:
    """Yield the geometries of a GeoJSON object, however they are nested."""
    if isinstance(content, list):
        for item in content:
            yield from _geometries(item)
    elif not isinstance(content, dict) or "type" not in content:
        raise ValueError("an object has no type")
    elif content["type"] == "FeatureCollection":
        yield from _geometries(content["features"])
    elif content["type"] == "GeometryCollection":
        yield from _geometries(content["geometries"])
    elif content["type"] == "Feature":
        yield from _geometries(content["geometry"])
    else:
        yield content


def _polygons(geometry: dict[str, object]) -> list[Polygon]:
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind not in ("Polygon", "MultiPolygon"):
        return []
    parts = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(parts, list):
        raise TypeError("coordinates are not a list")
    polygons = []
    for rings in parts:
        outer, *holes = [np.asarray(ring, dtype=np.float64)[:, :2] for ring in rings]
        polygons.append(Polygon(outer, tuple(holes)))
    return polygons
