"""Read regions of a scan at any resolution, in bounded memory."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from parfocal.cost import CostMeter
from parfocal.slide.readers.scan import ReadsAhead, Scan
from parfocal.slide.shrink import Span, shrink, shrink_whole

WHITE = 255


class RegionReader:
    """Reads regions of stored levels and shrinks them; what lies outside a level is white.

    Args:
        scan: the open file.
        cost_meter: counts the pixels that are decoded.
    """

    def __init__(self, scan: Scan, cost_meter: CostMeter) -> None:
        self._scan, self._cost_meter = scan, cost_meter

    def read(self, level: int, columns: Span, rows: Span) -> UInt8[np.ndarray, "h w 3"]:
        """Read a region of a stored level and shrink it by area averaging.

        Args:
            level: index of the level.
            columns: horizontal axis of the region.
            rows: vertical axis of the region.

        Raises:
            SlideError: the file is damaged inside the region.
        """
        factors = columns.stages, rows.stages
        if factors != (1, 1):
            finer = self.read(level, columns.divide(factors[0]), rows.divide(factors[1]))
            return shrink_whole(finer, factors)
        if columns.blocks == rows.blocks == 1:
            return self._read_block(level, columns, rows)
        pixels = np.empty((rows.count, columns.count, 3), dtype=np.uint8)
        for top, block_rows in rows.split():
            for left, block_columns in columns.split():
                block = self._read_block(level, block_columns, block_rows)
                bottom, right = top + block_rows.count, left + block_columns.count
                pixels[top:bottom, left:right] = block
        return pixels

    @property
    def reads_ahead(self) -> bool:
        """Whether `read_ahead` is of any use."""
        return isinstance(self._scan, ReadsAhead) and self._scan.reads_ahead

    def read_ahead(self, level: int, spans: Sequence[tuple[Span, Span]]) -> int:
        """Start fetching regions that will be read soon.

        Args:
            level: index of the level.
            spans: horizontal and vertical axis of each region.

        Returns:
            How many of the regions, from the first, are fetched or need not be.
        """
        if not isinstance(self._scan, ReadsAhead) or not self._scan.reads_ahead:
            return len(spans)
        stored, regions = self._scan.levels[level], []
        for columns, rows in spans:
            (left, width), (top, height) = columns.clip(stored.width), rows.clip(stored.height)
            regions.append((left, top, width, height) if width and height else (0, 0, 0, 0))
        return self._scan.read_ahead(level, regions)

    def cancel(self) -> None:
        """Let reads that wait in other threads fail at once."""
        if isinstance(self._scan, ReadsAhead):
            self._scan.cancel()

    def _read_block(self, level: int, columns: Span, rows: Span) -> UInt8[np.ndarray, "h w 3"]:
        pixels = self._read_stored(level, columns, rows)
        if columns.is_whole and rows.is_whole:
            return shrink_whole(pixels, (int(columns.step), int(rows.step)))
        return shrink(pixels, rows.edges, columns.edges)

    def _read_stored(self, level: int, columns: Span, rows: Span) -> UInt8[np.ndarray, "h w 3"]:
        """Read the stored pixels that a region covers."""
        shape = rows.length, columns.length, 3
        left, width = columns.clip(self._scan.levels[level].width)
        top, height = rows.clip(self._scan.levels[level].height)
        if width == 0 or height == 0:
            return np.full(shape, WHITE, dtype=np.uint8)
        self._cost_meter.add_pixels(width * height)
        pixels = self._scan.read_level(level, left, top, width, height)
        if pixels.shape == shape:
            return pixels
        canvas = np.full(shape, WHITE, dtype=np.uint8)
        y, x = top - rows.first, left - columns.first
        canvas[y : y + height, x : x + width] = pixels
        return canvas
