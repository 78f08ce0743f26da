"""Tiles for zooming: a slide at downsamples of powers of two, read on request."""

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from parfocal.explain.library import ListedSlide
from parfocal.explain.read_record import MAX_SIDE_PX
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Box, Slide, open_slide

TILE_PX = 256
THUMBNAIL_PX = 256
QUALITY = 85
MAX_OPEN_SLIDES = 16  # each may hold 32 MiB of decoded tiles
CACHE_BYTES = 64 * 2**20  # of encoded tiles


def is_possible(size: tuple[int, int]) -> bool:
    """Return whether a slide can have a width and height, in pixels."""
    return all(0 < side <= MAX_SIDE_PX for side in size)


def levels(size: tuple[int, int]) -> int:
    """Return the number of levels of a slide's pyramid, whose lowest level is one pixel.

    >>> levels((1024, 300)), levels((1025, 300))
    (11, 12)
    """
    return math.ceil(math.log2(max(size))) + 1


def tile_box(size: tuple[int, int], level: int, column: int, row: int) -> Box | None:
    """Return the position of a tile on the slide; None if there is no such tile.

    Args:
        size: width and height of the slide, in level-0 pixels.
        level: level of the pyramid; the last one has the full resolution.
        column: column of the tile, counted from 0.
        row: row of the tile, counted from 0.
    """
    if not 0 <= level < levels(size):
        return None
    side = TILE_PX * 2 ** (levels(size) - 1 - level)
    x, y = column * side, row * side
    if not (0 <= x < size[0] and 0 <= y < size[1]):
        return None
    return Box(x, y, min(side, size[0] - x), min(side, size[1] - y))


class Pyramids:
    """Read tiles of many slides, with few slides open at a time; thread-safe.

    Args:
        open_slides: number of slides to keep open; slides in use are never closed.
        kept_bytes: size of the cache of encoded tiles.
    """

    def __init__(
        self, *, open_slides: int = MAX_OPEN_SLIDES, kept_bytes: int = CACHE_BYTES
    ) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Slide] = OrderedDict()
        self._users: dict[str, int] = {}
        self._limit = open_slides
        self._tiles = _JpegCache(kept_bytes)

    def tile(self, listed: ListedSlide, level: int, column: int, row: int) -> bytes | None:
        """Return a tile as JPEG bytes; None if there is no such tile.

        Raises:
            SlideError: the slide cannot be read, or has changed since the prediction.
        """
        box = tile_box(listed.size, level, column, row)
        if box is None:
            return None
        scale = 2 ** (levels(listed.size) - 1 - level)
        return self._picture(listed, (listed.key, level, column, row), box, scale)

    def thumbnail(self, listed: ListedSlide) -> bytes:
        """Return a thumbnail of the slide as JPEG bytes.

        Raises:
            SlideError: the slide cannot be read, or has changed since the prediction.
        """
        width, height = listed.size
        scale = max(1.0, max(width, height) / THUMBNAIL_PX)
        return self._picture(listed, (listed.key, -1, 0, 0), Box(0, 0, width, height), scale)

    def close(self) -> None:
        """Close all slides, of which none may be in use."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _picture(
        self, listed: ListedSlide, key: tuple[str, int, int, int], box: Box, scale: float
    ) -> bytes:
        cached = self._tiles.get(key)
        if cached is not None:
            return cached
        with self._borrowed(listed) as slide:
            pixels = slide.read(box, slide.mpp * scale)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=QUALITY)
        self._tiles.put(key, encoded.getvalue())
        return encoded.getvalue()

    @contextmanager
    def _borrowed(self, listed: ListedSlide) -> Iterator[Slide]:
        with self._lock:
            slide = self._open.get(listed.key)
            if slide is None:
                slide = self._open[listed.key] = _open(listed)
            self._open.move_to_end(listed.key)
            self._users[listed.key] = self._users.get(listed.key, 0) + 1
        try:
            yield slide
        finally:
            with self._lock:
                self._users[listed.key] -= 1
                self._close_idle()

    def _close_idle(self) -> None:
        """Close the least recently used slides, down to the limit."""
        idle = [key for key in self._open if not self._users[key]]
        for key in idle[: max(0, len(self._open) - self._limit)]:
            self._open.pop(key).close()
            del self._users[key]


def _open(listed: ListedSlide) -> Slide:
    """Open a slide, and check that it is the one that was predicted."""
    if listed.path is None:
        raise SlideError(listed.problem or f"{listed.id}: the slide file is missing.")
    slide = open_slide(listed.path, mpp=listed.given_mpp, missing_tiles="background")
    if slide.fingerprint != listed.fingerprint:
        slide.close()
        raise SlideError(
            f"{listed.path}: the file has changed since the prediction (fingerprint "
            f"{slide.fingerprint[:8]}, was {listed.fingerprint[:8]}); predict it again, or name "
            "the folder of the original file with --slides DIR."
        )
    if slide.size != listed.size:
        slide.close()
        stored, found = (" x ".join(map(str, size)) for size in (listed.size, slide.size))
        raise SlideError(
            f"{listed.path}: the slide is {found} px, and its prediction says {stored}; predict it "
            "again."
        )
    return slide


class _JpegCache:
    """A cache of the most recently used JPEGs, limited in bytes; thread-safe."""

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._pictures: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()
        self._limit, self.size = limit, 0

    def get(self, key: tuple[str, int, int, int]) -> bytes | None:
        with self._lock:
            if key not in self._pictures:
                return None
            self._pictures.move_to_end(key)
            return self._pictures[key]

    def put(self, key: tuple[str, int, int, int], picture: bytes) -> None:
        with self._lock:
            self.size += len(picture) - len(self._pictures.pop(key, b""))
            self._pictures[key] = picture
            while self.size > self._limit:
                self.size -= len(self._pictures.popitem(last=False)[1])
