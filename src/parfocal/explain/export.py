"""A prediction -> the files that other viewers take."""

from pathlib import Path

from parfocal.explain.geojson import write_geojson
from parfocal.explain.overlay import write_overlay
from parfocal.explain.record import PredictionRecord
from parfocal.slide.openslide import scanned_bounds


def export(
    record: PredictionRecord, out: Path, *, geojson: bool, from_bounds: bool, overlay: bool
) -> None:
    """Write what is asked for beside a prediction.

    Args:
        record: a prediction.
        out: the folder.
        geojson: `<id>.geojson`, for QuPath.
        from_bounds: count its places from where the scanned part begins.
        overlay: `<id>.ome.tif`.
    """
    if geojson:
        place = record.slide.path if from_bounds else None
        offset = (0.0, 0.0) if place is None else scanned_bounds(Path(place))
        write_geojson(record, out / f"{record.slide.id}.geojson", offset=offset)
    if overlay:
        write_overlay(record, out / f"{record.slide.id}.ome.tif")
