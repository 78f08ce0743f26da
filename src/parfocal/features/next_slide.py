"""Open the next slide of an extraction, and read its first patches, during the current one."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from parfocal.features.live import StartedPatches
from parfocal.grid import PatchGrid
from parfocal.slide.slide import Slide


@dataclass(frozen=True)
class OpenedSlide:
    """A slide that is about to be extracted.

    Args:
        slide: the slide.
        grid: its patches.
        first: patches of the lowest magnification, of which the first ones are being read; None to
            begin when they are needed.
        stack: what is closed with the slide.
    """

    slide: Slide
    grid: PatchGrid
    first: StartedPatches | None
    stack: ExitStack

    def __enter__(self) -> Slide:
        return self.slide

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading, and close the slide."""
        if self.first is not None:
            self.first.close()
        self.stack.close()


class _Opening(threading.Thread):
    """Opens a slide; the process ends without it."""

    def __init__(self, item: str, open_slide: Callable[[str], OpenedSlide | None]) -> None:
        super().__init__(name="next-slide", daemon=True)
        self.item, self._open = item, open_slide
        self._lock, self._is_unwanted = threading.Lock(), False
        self._opened: OpenedSlide | None = None

    def run(self) -> None:
        """Open the slide; an error is left to whoever extracts it, and opens it again."""
        try:
            opened = self._open(self.item)
        except Exception:
            return
        with self._lock:
            if not self._is_unwanted:
                self._opened = opened
                return
        if opened is not None:
            opened.close()

    def result(self) -> OpenedSlide | None:
        """Wait for the slide; return None if it could not be opened."""
        self.join()
        return self._opened

    def cancel(self) -> None:
        """Close the slide as soon as it is open."""
        with self._lock:
            self._is_unwanted, opened = True, self._opened
            self._opened = None
        if opened is not None:
            opened.close()


@dataclass
class NextSlide:
    """The slide that is extracted next. At most one is open, besides the current one.

    Args:
        following: returns the item that comes next; None if there is none.
    """

    following: Callable[[], str | None] | None = None
    _opening: _Opening | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, object]:
        """Leave out what belongs to this process."""
        return {"following": None, "_opening": None}

    def start(self, open_slide: Callable[[str], OpenedSlide | None]) -> None:
        """Start to open the next slide, unless one is open.

        Args:
            open_slide: opens the slide of an item; returns None if there is nothing to extract.
        """
        item = None if self.following is None or self._opening else self.following()
        if item is not None:
            self._opening = _Opening(item, open_slide)
            self._opening.start()

    def take(self, item: str) -> OpenedSlide | None:
        """Return the slide of an item, which the caller closes; None if another or none is open."""
        opening, self._opening = self._opening, None
        if opening is not None and opening.item == item:
            return opening.result()
        if opening is not None:  # another process works on that one
            opening.cancel()
        return None

    def close(self) -> None:
        """Close the slide that is open, and open no other."""
        self.following = None
        self.take("")
