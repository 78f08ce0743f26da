"""Lesions drawn on a slide: which share of a square lies inside."""

import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Real

from parfocal.dataset.cohort import CohortError
from parfocal.files import whole_file

logger = logging.getLogger(__name__)

Ring = Float[np.ndarray, "v 2"]


@dataclass(frozen=True)
class Polygon:
    """An outline and its holes, in level-0 pixels; each ring closes on its first point."""

    outer: Ring
    holes: tuple[Ring, ...] = ()


@dataclass(frozen=True)
class Outlines:
    """The lesions of a slide."""

    polygons: tuple[Polygon, ...]

    def overlap(
        self, x: Real[np.ndarray, " n"], y: Real[np.ndarray, " n"], side: float
    ) -> Float[np.ndarray, " n"]:
        """Give the share of each square inside lesions, exactly; 0..1.

        Where outlines overlap each other the shares add up, to at most 1.

        Args:
            x: left edges, in level-0 pixels.
            y: upper edges.
            side: of the squares.
        """
        area = np.zeros(len(x))
        for polygon in self.polygons:
            near = (
                (x < polygon.outer[:, 0].max())
                & (x + side > polygon.outer[:, 0].min())
                & (y < polygon.outer[:, 1].max())
                & (y + side > polygon.outer[:, 1].min())
            )
            for sign, ring in [(1, polygon.outer), *((-1, hole) for hole in polygon.holes)]:
                area[near] += sign * _area_inside(ring, x[near], y[near], side)
        return np.clip(area / side**2, 0, 1)


def read_outlines(path: Path) -> Outlines:
    """Read polygons from a GeoJSON file in level-0 pixels, as QuPath writes it.

    A FeatureCollection, a Feature, a list of them or a bare geometry; shapes without an area
    (points, lines) are left out with a warning.

    Raises:
        CohortError: the file is not GeoJSON.
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
    flat = {str(geometry["type"]) for geometry in geometries} - {"Polygon", "MultiPolygon"}
    if flat:
        logger.warning("%s: %s left out, having no area", path.name, ", ".join(sorted(flat)))
    return Outlines(polygons)


def write_outlines(path: Path, outlines: Outlines) -> None:
    """Write outlines as GeoJSON that QuPath opens and `read_outlines` reads.

    Args:
        path: where to; a file already there is replaced.
        outlines: of tumor, in level-0 pixels.
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
    """Unpack whatever GeoJSON may wrap a geometry in."""
    if isinstance(content, list):
        for item in content:
            yield from _geometries(item)
    elif not isinstance(content, dict) or "type" not in content:
        raise ValueError("an object without a type")
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
    several = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(several, list):
        raise TypeError("coordinates that are no list")
    polygons = []
    for rings in several:
        outer, *holes = [np.asarray(ring, dtype=np.float64)[:, :2] for ring in rings]
        polygons.append(Polygon(outer, tuple(holes)))
    return polygons


def _area_inside(
    ring: Ring, x: Real[np.ndarray, " n"], y: Real[np.ndarray, " n"], side: float
) -> Float[np.ndarray, " n"]:
    """Give the area a ring shares with each square.

    The shoelace formula with the ring clamped to the square: each edge adds the integral over x,
    within the square's columns, of how far it lies below the square's upper side.
    """
    area = np.zeros(len(x))
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if x0 == x1:
            continue
        # The edge from where it enters the square's columns to where it leaves them.
        start, stop = np.clip(x0 - x, 0, side), np.clip(x1 - x, 0, side)
        slope = (y1 - y0) / (x1 - x0)
        high = y0 + slope * (start + x - x0) - y
        low = y0 + slope * (stop + x - x0) - y
        area += (stop - start) * _mean_clamped(high, low, side)
    return np.asarray(np.abs(area))


def _mean_clamped(
    start: Float[np.ndarray, " n"], stop: Float[np.ndarray, " n"], side: float
) -> Float[np.ndarray, " n"]:
    """Average `clip(v, 0, side)` for v from start to stop."""

    def integral(value: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        inside = np.clip(value, 0, side)
        total: Float[np.ndarray, " n"] = inside**2 / 2 + side * np.maximum(value - side, 0)
        return total

    step = stop - start
    level = np.abs(step) < 1e-6 * side
    slanted = (integral(stop) - integral(start)) / np.where(level, 1, step)
    mean: Float[np.ndarray, " n"] = np.where(level, np.clip((start + stop) / 2, 0, side), slanted)
    return mean
