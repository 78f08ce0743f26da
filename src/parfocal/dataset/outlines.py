"""Lesion outlines of a slide, and the share of a square that lies inside them."""

import json
import logging
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely
from jaxtyping import Float, Real
from numpy.typing import NDArray

from parfocal.dataset.errors import CohortError
from parfocal.files import whole_file
from parfocal.polygons import PolygonFileError, read_polygons

logger = logging.getLogger(__name__)

MAX_CORNERS = 256  # of a piece of a lesion

Ring = Float[np.ndarray, "_ 2"]


@dataclass(frozen=True)
class Polygon:
    """An outer ring and its holes.

    Args:
        outer: corners in level-0 pixels; the ring may or may not repeat its first corner.
        holes: corners of each hole, in level-0 pixels.
        class_name: name of its class; None if it has none.
    """

    outer: Ring
    holes: tuple[Ring, ...] = ()
    class_name: str | None = None


@dataclass(frozen=True)
class Outlines:
    """The lesions of a slide.

    Args:
        polygons: the lesions, in level-0 pixels. They may overlap, and a ring may cross itself,
            as rings drawn by hand do.
        class_counts: number of polygons of each class in the file, selected or not; "" is the class
            of polygons without one.
    """

    polygons: tuple[Polygon, ...]
    class_counts: Mapping[str, int] = field(default_factory=dict)

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
        covered = shapely.covers(lesions[lesion], squares[square])
        crossed = np.unique(square[~covered])
        area = np.zeros(len(squares))
        area[crossed] = self._areas(squares[crossed])
        area[square[covered]] = side**2
        return np.asarray(np.clip(area / side**2, 0, 1))

    def _areas(self, squares: NDArray[np.object_]) -> Float[np.ndarray, " n"]:
        """Compute the area of lesions in each square."""
        square, piece = self._pieces.query(squares)
        area = shapely.area(shapely.intersection(self._pieces.geometries[piece], squares[square]))
        return np.bincount(square, weights=area, minlength=len(squares)).astype(np.float64)

    @cached_property
    def _pieces(self) -> shapely.STRtree:
        """Spatial index of the lesions, cut into pieces of few corners.

        An intersection takes time in proportion to all corners of both shapes.
        """
        pieces, large = [], list(self._tree.geometries)
        while large:
            shape = large.pop()
            if shapely.get_num_coordinates(shape) <= MAX_CORNERS:
                pieces.append(shape)
            else:
                large += _halves(shape)
        # Clipping may leave a shape that touches itself.
        return shapely.STRtree(shapely.make_valid(pieces, method="structure"))

    def shifted(self, x: float, y: float) -> "Outlines":
        """Return the outlines with an offset added to every corner, in level-0 pixels."""
        offset = np.array([x, y])
        polygons = tuple(
            replace(each, outer=each.outer + offset, holes=tuple(h + offset for h in each.holes))
            for each in self.polygons
        )
        return replace(self, polygons=polygons)

    @property
    def bounds(self) -> Float[np.ndarray, "n 4"]:
        """Smallest x and y, and largest x and y, of each polygon."""
        return np.asarray(shapely.bounds(self.shapes)).reshape(-1, 4)

    @cached_property
    def shapes(self) -> NDArray[np.object_]:
        """The polygons as shapely geometries, as drawn."""
        return np.array([to_shapely(polygon) for polygon in self.polygons], dtype=object)

    @cached_property
    def crossing(self) -> int:
        """Number of polygons whose rings cross or touch themselves."""
        return int(np.count_nonzero(~shapely.is_valid(self.shapes))) if self.polygons else 0

    @cached_property
    def _tree(self) -> shapely.STRtree:
        """Spatial index of the lesions, merged where they overlap."""
        # "structure" keeps all area inside a ring that crosses itself; "linework" leaves holes.
        valid = shapely.make_valid(self.shapes, method="structure", keep_collapsed=False)
        return shapely.STRtree(shapely.get_parts(shapely.disjoint_subset_union_all(valid)))


def _halves(shape: shapely.Geometry) -> list[shapely.Geometry]:
    """Cut a polygon across its longer side, and return the parts with an area."""
    left, top, right, bottom = shape.bounds
    x, y = (left + right) / 2, (top + bottom) / 2
    if right - left > bottom - top:
        boxes = ((left, top, x, bottom), (x, top, right, bottom))
    else:
        boxes = ((left, top, right, y), (left, y, right, bottom))
    parts = shapely.get_parts([shapely.clip_by_rect(shape, *box) for box in boxes])
    return [part for part in parts if part.area > 0]


def to_shapely(polygon: Polygon) -> shapely.Polygon:
    """Convert a polygon; a ring of fewer than three corners has no area and is ignored."""
    if len(polygon.outer) < 3:
        return shapely.Polygon()
    return shapely.Polygon(polygon.outer, [hole for hole in polygon.holes if len(hole) >= 3])


def read_outlines(
    path: Path, *, classes: Sequence[str] = (), offset: tuple[float, float] = (0.0, 0.0)
) -> Outlines:
    """Read polygons from a GeoJSON file in level-0 pixels, as QuPath writes it.

    The file holds a FeatureCollection, a Feature, a list of Features or a geometry. Features
    without a geometry are skipped. Points and open lines have no area: they are ignored with a
    warning.

    Args:
        path: the file.
        classes: names of the classes to read, regardless of case; `Tumor*` is every name that
            begins so. Empty for all polygons.
        offset: (x, y) to add to every corner.

    Raises:
        CohortError: the file cannot be read or is not GeoJSON, a coordinate is not a number, or
            it is not empty and nothing in it has an area.
    """
    try:
        content = read_polygons(path)
    except PolygonFileError as error:
        raise CohortError(
            f"{path.name}: {error}; export polygons as GeoJSON in level-0 pixels."
        ) from None
    ignored = ", ".join(content.ignored)
    if ignored and not content.polygons:
        raise CohortError(
            f"{path.name}: no geometry has an area (found: {ignored}); draw lesions as polygons. "
            "For a slide without lesions, give an empty FeatureCollection."
        )
    if ignored:
        logger.warning("%s: ignored %s, which have no area; draw polygons", path.name, ignored)
    polygons = tuple(
        Polygon(each.outer, each.holes, each.class_name)
        for each in content.polygons
        if not classes or matches(each.class_name, classes)
    )
    counts = Counter(each.class_name or "" for each in content.polygons)
    outlines = Outlines(polygons, dict(counts))
    return outlines.shifted(*offset) if any(offset) else outlines


def matches(name: str | None, classes: Iterable[str]) -> bool:
    """Return whether a class name is one of some names or patterns, regardless of case."""
    return any(fnmatchcase((name or "").casefold(), each.casefold()) for each in classes)


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
