"""Export a prediction to files for other viewers."""

from dataclasses import dataclass
from pathlib import Path

from parfocal.explain.geojson import write_geojson
from parfocal.explain.overlay import write_overlay
from parfocal.explain.record import PredictionRecord
from parfocal.slide.listing import OVERLAY_SUFFIX
from parfocal.slide.readers.openslide import bounds_offset
from parfocal.slide.sources.url import is_url


@dataclass(frozen=True)
class Exports:
    """Which files for other viewers to write beside a prediction.

    Args:
        geojson: whether to write `<id>.geojson`, for QuPath.
        from_bounds: whether its coordinates start at the scanned bounds; if False, they start at
            the top-left corner of the slide.
        overlay: whether to write `<id>.ome.tif`, an image of the scores.
    """

    geojson: bool = False
    from_bounds: bool = False
    overlay: bool = False

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of the files end in, after the id of the slide."""
        pairs = ((self.geojson, ".geojson"), (self.overlay, OVERLAY_SUFFIX))
        return tuple(suffix for is_written, suffix in pairs if is_written)


def export(record: PredictionRecord, out: Path, exports: Exports) -> None:
    """Write the requested exports of a prediction.

    Args:
        record: a prediction.
        out: folder to write to.
        exports: which files to write.
    """
    if exports.geojson:
        path = record.slide.path if exports.from_bounds else None
        offset = (0.0, 0.0) if path is None or is_url(path) else bounds_offset(Path(path))
        write_geojson(record, out / f"{record.slide.id}.geojson", offset=offset)
    if exports.overlay:
        write_overlay(record, out / f"{record.slide.id}{OVERLAY_SUFFIX}")
