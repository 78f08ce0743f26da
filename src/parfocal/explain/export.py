"""Export a prediction to files for other viewers."""

from pathlib import Path

from parfocal.explain.geojson import write_geojson
from parfocal.explain.overlay import write_overlay
from parfocal.explain.record import PredictionRecord
from parfocal.slide.readers.openslide import bounds_offset


def export(
    record: PredictionRecord, out: Path, *, geojson: bool, from_bounds: bool, overlay: bool
) -> None:
    """Write the requested exports of a prediction.

    Args:
        record: a prediction.
        out: folder to write to.
        geojson: whether to write `<id>.geojson`, for QuPath.
        from_bounds: whether its coordinates start at the scanned bounds; if False, they start at
            the top-left corner of the slide.
        overlay: whether to write `<id>.ome.tif`, an image of the scores.
    """
    if geojson:
        path = record.slide.path if from_bounds else None
        offset = (0.0, 0.0) if path is None else bounds_offset(Path(path))
        write_geojson(record, out / f"{record.slide.id}.geojson", offset=offset)
    if overlay:
        write_overlay(record, out / f"{record.slide.id}.ome.tif")
