"""What a model is given, with a note of the seconds the model waited for it."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from parfocal.bag import Bag, PixelSource


class WaitTimer:
    """Seconds waited, added up."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the seconds of a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


def clocked(given: Bag | PixelSource, waits: WaitTimer) -> Bag | PixelSource:
    """Give the same, noting how long is waited for features or pixels."""
    return ClockedBag(given, waits) if isinstance(given, Bag) else ClockedPixels(given, waits)


class ClockedBag:
    """A bag that notes the seconds spent on features, its own and those it zooms into."""

    def __init__(self, bag: Bag, waits: WaitTimer) -> None:
        self._bag, self._waits = bag, waits

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Which patches these are."""
        return self._bag.rows

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """False where a patch does not exist."""
        return self._bag.valid

    def features(self) -> Float[Tensor, "n d"]:
        """Give the patches' features, and note how long that takes."""
        with self._waits.noted():
            return self._bag.features()

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Give (column, row) of the patches."""
        return self._bag.cells()

    def zoom(self, select: Float[Tensor, "k n"] | None) -> "ClockedBag":
        """Go on to the children of the selected patches."""
        return ClockedBag(self._bag.zoom(select), self._waits)


class ClockedPixels:
    """A source of pixels that notes the seconds waited for them."""

    def __init__(self, source: PixelSource, waits: WaitTimer) -> None:
        self._source, self._waits = source, waits

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 pixels."""
        return self._source.size

    @property
    def mpp(self) -> float:
        """Microns per level-0 pixel."""
        return self._source.mpp

    def request(
        self, boxes: Float[Tensor, "n 4"], size: tuple[int, int], *, step: int | None = None
    ) -> Future[UInt8[Tensor, "n 3 h w"]]:
        """Begin to read regions; only waiting for them is noted."""
        return _ClockedFuture(self._source.request(boxes, size, step=step), self._waits)

    def tissue(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        """Give the share of each box that is tissue."""
        return self._source.tissue(boxes)


class _ClockedFuture(Future[Tensor]):
    def __init__(self, inner: Future[Tensor], waits: WaitTimer) -> None:
        super().__init__()
        self._inner, self._waits = inner, waits

    def result(self, timeout: float | None = None) -> Tensor:
        with self._waits.noted():
            return self._inner.result(timeout)
