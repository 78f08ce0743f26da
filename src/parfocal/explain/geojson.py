"""A prediction -> objects for QuPath, as GeoJSON.

Every patch looked at is a tile with measurements, by which QuPath colors a map; what was found by
zooming into a patch stands inside it. The sharp patches that counted most are annotations.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import numpy as np

from parfocal.explain.map_layout import colors
from parfocal.explain.record import PredictionRecord, Region
from parfocal.files import write_whole

ANNOTATED = 5
ANNOTATION_COLOR = [213, 94, 0]

Feature = dict[str, object]


def write_geojson(
    record: PredictionRecord, path: Path, *, offset: tuple[float, float] = (0.0, 0.0)
) -> None:
    """Write what a model looked at, for QuPath to import onto the slide.

    Args:
        record: a prediction.
        path: the file; written whole or not at all.
        offset: x and y, in level-0 pixels, of where QuPath's image begins on the slide: of a
            format that knows its scanned bounds, QuPath may show these alone.
    """
    write_whole(path, (json.dumps(to_geojson(record, offset=offset)) + "\n").encode())


def to_geojson(
    record: PredictionRecord, *, offset: tuple[float, float] = (0.0, 0.0)
) -> dict[str, object]:
    """Give the objects as a FeatureCollection; see `write_geojson`."""
    looked = [region for region in record.regions if region.order is not None]
    children: dict[str | None, list[Region]] = {}
    for region in looked:
        children.setdefault(region.parent, []).append(region)
    paint = _colors(looked)

    def tile(region: Region) -> Feature:
        within = [tile(child) for child in children.get(region.id, ())]
        properties: dict[str, object] = {
            "objectType": "tile",
            "name": f"{record.magnification_at(region.mpp):g}x {region.id}",
            "color": paint[region.id],
            "measurements": _measurements(record, region),
            "metadata": {"step": str(region.step), "zoomed into": str(region.selected).lower()},
        }
        if within:
            properties["childObjects"] = within
        return _feature(record, region, "tile", properties, offset)

    annotations = [
        _feature(record, region, "annotation", _annotation(record, region, rank), offset)
        for rank, region in enumerate(record.counted_most(ANNOTATED), start=1)
    ]
    tiles = [tile(region) for region in children.get(None, ())]
    return {"type": "FeatureCollection", "features": annotations + tiles}


def _annotation(record: PredictionRecord, region: Region, rank: int) -> dict[str, object]:
    """Say of a patch that counted much what the slide was taken for."""
    magnification = record.magnification_at(region.mpp)
    return {
        "objectType": "annotation",
        "name": f"#{rank}, {magnification:g}x, {region.score_kind} {region.score:.2g}",
        "classification": {"name": record.label, "color": ANNOTATION_COLOR},
        "isLocked": True,
        "measurements": _measurements(record, region),
    }


def _measurements(record: PredictionRecord, region: Region) -> Mapping[str, float]:
    magnification = f"{record.magnification_at(region.mpp):g}x"
    assert region.order is not None
    told = {
        # By magnification: QuPath's map then shows one, as they are not to be compared.
        f"{region.score_kind} at {magnification}": region.score,
        "order of looking": float(region.order),
        "um per pixel": region.mpp,
    }
    if region.zoom_score is not None:
        told[f"zoom attention at {magnification}"] = region.zoom_score
    return told


def _feature(
    record: PredictionRecord,
    region: Region,
    kind: str,
    properties: dict[str, object],
    offset: tuple[float, float],
) -> Feature:
    """Give an object; the same of the same prediction has the same id."""
    left, top = region.x - offset[0], region.y - offset[1]
    right, bottom = left + region.width, top + region.height
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    named = f"{record.slide.fingerprint}/{record.model.weights_sha256}/{kind}/{region.id}"
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE_URL, named)),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": properties,
    }


def _colors(regions: Sequence[Region]) -> dict[str, list[int]]:
    """Give each region the color of its score, each magnification on a scale of its own."""
    highest: dict[int, float] = {}
    for region in regions:
        highest[region.step] = max(highest.get(region.step, 0.0), region.score)
    shares = np.array([region.score / (highest[region.step] or 1.0) for region in regions])
    shown = colors(shares.clip(0, 1)).tolist()
    return {region.id: color for region, color in zip(regions, shown, strict=True)}
