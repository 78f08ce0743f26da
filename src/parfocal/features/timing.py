"""Measure how long a model waits for features or pixels."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from parfocal.bag import Bag, ModelInput, PixelSource, SeparateSlides


class WaitTimer:
    """Adds up seconds of waiting in `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Add the seconds that a block of code takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


def timed(inputs: ModelInput, timer: WaitTimer) -> ModelInput:
    """Wrap a model input so that waiting for its features or pixels is timed."""
    if isinstance(inputs, SeparateSlides):
        slides = [timed(each, timer) for each in inputs.slides]
        kept = tuple(each for each in slides if not isinstance(each, SeparateSlides))
        return replace(inputs, slides=kept)
    return TimedBag(inputs, timer) if isinstance(inputs, Bag) else TimedPixels(inputs, timer)


class TimedBag:
    """A bag that times the computation of its features, and of those of the bags it zooms into.

    Args:
        bag: bag to wrap.
        timer: timer to add the seconds to.
    """

    def __init__(self, bag: Bag, timer: WaitTimer) -> None:
        self._bag, self._timer = bag, timer

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Indices of the patches; see `Bag`."""
        return self._bag.rows

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """Whether each patch exists."""
        return self._bag.valid

    @property
    def parents(self) -> Int64[Tensor, " n"] | None:
        """Position of each patch's parent in the bag that was zoomed; see `Bag`."""
        return self._bag.parents

    def features(self) -> Float[Tensor, "n d"]:
        """Return the features of the patches, and time that."""
        with self._timer.measure():
            return self._bag.features()

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Return (column, row) of the patches; see `Bag`."""
        return self._bag.cells()

    def slides(self) -> Int64[Tensor, " n"]:
        """Return the slide of each patch; see `Bag`."""
        return self._bag.slides()

    def zoom(self, select: Float[Tensor, "k n"] | None) -> "TimedBag":
        """Return the bag of the selected patches' children; see `Bag`."""
        return TimedBag(self._bag.zoom(select), self._timer)


class TimedPixels:
    """A pixel source that times how long its pixels are waited for.

    Args:
        source: pixel source to wrap.
        timer: timer to add the seconds to.
    """

    def __init__(self, source: PixelSource, timer: WaitTimer) -> None:
        self._source, self._timer = source, timer

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
        """Start reading regions; see `PixelSource`. Only `.result()` is timed."""
        return _TimedFuture(self._source.request(boxes, size, step=step), self._timer)

    def tissue(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        """Return the share of tissue in each box."""
        return self._source.tissue(boxes)


class _TimedFuture(Future[Tensor]):
    def __init__(self, inner: Future[Tensor], timer: WaitTimer) -> None:
        super().__init__()
        self._inner, self._timer = inner, timer

    def result(self, timeout: float | None = None) -> Tensor:
        with self._timer.measure():
            return self._inner.result(timeout)
