"""Turn a scan whose file says that it is stored turned or mirrored."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from parfocal.slide.readers.scan import Level, Metadata, ReadsAhead, Region, Scan

# By the value of Orientation in TIFF and EXIF: whether rows and columns are exchanged, and then
# whether the stored picture runs from the right and from the bottom.
ORIENTATIONS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


class OrientedScan:
    """A scan with the orientation that its file asks for.

    Args:
        scan: the scan as stored.
        orientation: value of Orientation, from 2 to 8.
    """

    def __init__(self, scan: Scan, orientation: int) -> None:
        self._scan = scan
        self._is_transposed, self._from_right, self._from_bottom = ORIENTATIONS[orientation]
        self.levels: tuple[Level, ...] = tuple(
            Level(level.height, level.width, level.downsample) if self._is_transposed else level
            for level in scan.levels
        )

    @property
    def metadata(self) -> Metadata:
        """The metadata of the stored scan."""
        return self._scan.metadata

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored pixels; see `Scan.read_level`."""
        pixels = self._scan.read_level(level, *self._to_stored(level, (x, y, width, height)))
        pixels = pixels[:: -1 if self._from_bottom else 1, :: -1 if self._from_right else 1]
        return np.ascontiguousarray(pixels.swapaxes(0, 1) if self._is_transposed else pixels)

    @property
    def reads_ahead(self) -> bool:
        """Whether the file is remote, or on a slow disk."""
        return isinstance(self._scan, ReadsAhead) and self._scan.reads_ahead

    def read_ahead(self, level: int, regions: Sequence[Region]) -> int:
        """Start fetching regions; see `ReadsAhead`."""
        if not isinstance(self._scan, ReadsAhead):
            return len(regions)
        return self._scan.read_ahead(level, [self._to_stored(level, each) for each in regions])

    def cancel(self) -> None:
        """Let reads that wait in other threads fail at once."""
        if isinstance(self._scan, ReadsAhead):
            self._scan.cancel()

    def close(self) -> None:
        """Close the file."""
        self._scan.close()

    def _to_stored(self, level: int, region: Region) -> Region:
        """Return where a region lies in the picture as stored."""
        x, y, width, height = region
        if self._is_transposed:
            x, y, width, height = y, x, height, width
        stored = self._scan.levels[level]
        left = stored.width - x - width if self._from_right else x
        top = stored.height - y - height if self._from_bottom else y
        return left, top, width, height
