"""Tiles for a deep zoom: a slide at powers of two, each tile read when it is asked for."""

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from parfocal.explain.library import ListedSlide
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Box, Slide, open_slide

TILE_PX = 256
THUMBNAIL_PX = 256
QUALITY = 85
OPEN_SLIDES = 16  # each may hold 32 MiB of decoded tiles
KEPT_BYTES = 64 * 2**20  # of encoded tiles


def levels(size: tuple[int, int]) -> int:
    """Count the levels of a slide's pyramid, of which the lowest is one pixel.

    >>> levels((1024, 300)), levels((1025, 300))
    (11, 12)
    """
    return math.ceil(math.log2(max(size))) + 1


def tile_box(size: tuple[int, int], level: int, column: int, row: int) -> Box | None:
    """Give the place of a tile on the slide; None where there is no such tile.

    Args:
        size: of the slide, in level-0 pixels.
        level: the last is the sharpest.
        column: counted from 0.
        row: likewise.
    """
    if not 0 <= level < levels(size):
        return None
    side = TILE_PX * 2 ** (levels(size) - 1 - level)
    x, y = column * side, row * side
    if not (0 <= x < size[0] and 0 <= y < size[1]):
        return None
    return Box(x, y, min(side, size[0] - x), min(side, size[1] - y))


class Pyramids:
    """The tiles of many slides, of which few are open, and the last tiles kept.

    Any thread may ask. A slide in use is not closed.
    """

    def __init__(self, *, open_slides: int = OPEN_SLIDES, kept_bytes: int = KEPT_BYTES) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Slide] = OrderedDict()
        self._users: dict[str, int] = {}
        self._limit = open_slides
        self._tiles = _Kept(kept_bytes)

    def tile(self, listed: ListedSlide, level: int, column: int, row: int) -> bytes | None:
        """Give a tile as a JPEG; None where there is no such tile.

        Raises:
            SlideError: the slide is not there any more, or damaged.
        """
        box = tile_box(listed.size, level, column, row)
        if box is None:
            return None
        scale = 2 ** (levels(listed.size) - 1 - level)
        return self._picture(listed, (listed.key, level, column, row), box, scale)

    def thumbnail(self, listed: ListedSlide) -> bytes:
        """Give the whole slide, small, as a JPEG.

        Raises:
            SlideError: as of `tile`.
        """
        width, height = listed.size
        scale = max(1.0, max(width, height) / THUMBNAIL_PX)
        return self._picture(listed, (listed.key, -1, 0, 0), Box(0, 0, width, height), scale)

    def close(self) -> None:
        """Close all slides; none may be in use."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _picture(
        self, listed: ListedSlide, key: tuple[str, int, int, int], box: Box, scale: float
    ) -> bytes:
        kept = self._tiles.get(key)
        if kept is not None:
            return kept
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
                self._close_some()

    def _close_some(self) -> None:
        """Close the slides unused for longest, down to the limit."""
        idle = [key for key in self._open if not self._users[key]]
        for key in idle[: max(0, len(self._open) - self._limit)]:
            self._open.pop(key).close()
            del self._users[key]


def _open(listed: ListedSlide) -> Slide:
    """Open a slide, if it is still the one that was looked at."""
    if listed.path is None:
        raise SlideError(listed.problem or f"{listed.id}: there is no file of it.")
    slide = open_slide(listed.path, mpp=listed.given_mpp)
    if slide.fingerprint != listed.fingerprint:
        slide.close()
        raise SlideError(
            f"{listed.path}: not the file that was looked at (fingerprint {slide.fingerprint[:8]}, "
            f"not {listed.fingerprint[:8]}); predict it again, or give the old one with --slides "
            "FOLDER."
        )
    return slide


class _Kept:
    """The pictures asked for last, up to a number of bytes."""

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
