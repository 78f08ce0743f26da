"""Export a prediction to QuPath as GeoJSON.

Every visited patch is a tile object with measurements, from which QuPath colors a map. Patches
found by zooming into a patch are its child objects. The patches of the highest magnification that
counted most are annotations.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import numpy as np

from parfocal.explain.map_layout import scale_colors
from parfocal.explain.record import PredictionRecord
from parfocal.explain.record_parts import Region
from parfocal.files import write_whole

ANNOTATED = 5
ANNOTATION_COLOR = [213, 94, 0]

Feature = dict[str, object]


def write_geojson(
    record: PredictionRecord, path: Path, *, offset: tuple[float, float] = (0.0, 0.0)
) -> None:
    """Write the visited patches as GeoJSON, for import into QuPath.

    Args:
        record: a prediction.
        path: the file to write; written completely or not at all.
        offset: x and y, in level-0 pixels, of the top-left corner of QuPath's image. Not 0 if
            QuPath shows only the scanned bounds of the slide.
    """
    write_whole(path, (json.dumps(to_geojson(record, offset=offset)) + "\n").encode())


def to_geojson(
    record: PredictionRecord, *, offset: tuple[float, float] = (0.0, 0.0)
) -> dict[str, object]:
    """Return the visited patches as a GeoJSON FeatureCollection.

    Args:
        record: a prediction.
        offset: see `write_geojson`.
    """
    visited = [region for region in record.regions if region.visited]
    children: dict[str | None, list[Region]] = {}
    for region in visited:
        children.setdefault(region.parent, []).append(region)
    colors = _colors(visited)

    def tile(region: Region) -> Feature:
        child_tiles = [tile(child) for child in children.get(region.id, ())]
        properties: dict[str, object] = {
            "objectType": "tile",
            "name": f"{record.magnification_at(region.mpp):g}x {region.id}",
            "color": colors[region.id],
            "measurements": _measurements(record, region),
            "metadata": {"step": str(region.step), "zoomed into": str(region.selected).lower()},
        }
        if child_tiles:
            properties["childObjects"] = child_tiles
        return _feature(record, region, "tile", properties, offset)

    annotations = [
        _feature(record, region, "annotation", _annotation(record, region, rank), offset)
        for rank, region in enumerate(record.top_regions(ANNOTATED), start=1)
    ]
    tiles = [tile(region) for region in children.get(None, ())]
    return {"type": "FeatureCollection", "features": annotations + tiles}


def _annotation(record: PredictionRecord, region: Region, rank: int) -> dict[str, object]:
    """Return the properties of an annotation, which carries the predicted class of the slide."""
    magnification = record.magnification_at(region.mpp)
    return {
        "objectType": "annotation",
        "name": f"#{rank}, {magnification:g}x, {_score_name(region)} {region.score:.2g}",
        "classification": {"name": record.label, "color": ANNOTATION_COLOR},
        "isLocked": True,
        "measurements": _measurements(record, region),
    }


def _measurements(record: PredictionRecord, region: Region) -> Mapping[str, float]:
    magnification = f"{record.magnification_at(region.mpp):g}x"
    assert region.order is not None
    measurements = {
        # The name contains the magnification, because scores of different ones do not compare.
        f"{_score_name(region)} at {magnification}": region.score,
        "visit order": float(region.order),
        "um per pixel": region.mpp,
    }
    if region.zoom_attention is not None:
        measurements[f"zoom attention at {magnification}"] = region.zoom_attention
    return measurements


def _score_name(region: Region) -> str:
    return region.score_kind.replace("_", " ")


def _feature(
    record: PredictionRecord,
    region: Region,
    kind: str,
    properties: dict[str, object],
    offset: tuple[float, float],
) -> Feature:
    """Return an object whose id is the same for the same region of the same prediction."""
    left, top = region.x - offset[0], region.y - offset[1]
    right, bottom = left + region.width, top + region.height
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    name = f"{record.slide.fingerprint}/{record.model.weights_sha256}/{kind}/{region.id}"
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE_URL, name)),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": properties,
    }


def _colors(regions: Sequence[Region]) -> dict[str, list[int]]:
    """Return the color of each region's score, on one scale per magnification."""
    highest: dict[int, float] = {}
    for region in regions:
        highest[region.step] = max(highest.get(region.step, 0.0), region.score)
    shares = np.array([region.score / (highest[region.step] or 1.0) for region in regions])
    colors = scale_colors(shares.clip(0, 1)).tolist()
    return {region.id: color for region, color in zip(regions, colors, strict=True)}
