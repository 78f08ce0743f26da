"""A pixel source over a slide: regions read in threads while the model computes.

source = SlidePixels(slide, find_tissue(slide))
waiting = source.request(boxes, (299, 299), step=0)  # returns at once
pixels = waiting.result()
"""

from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from parfocal.bag import PixelSource
from parfocal.features.live import reading_threads
from parfocal.features.pixel_cache import PixelCache
from parfocal.slide.slide import Box, Slide
from parfocal.slide.tissue import Tissue

REMEMBERED = 256  # regions kept for being asked again: of 299 pixels a side, 66 MiB

Pixels = UInt8[np.ndarray, "h w 3"]
Region = tuple[Box, tuple[int, int]]


class SlidePixels:
    """One slide's pixels, read in threads, each region once, and written on `slide.bill`.

    Args:
        slide: to read from.
        tissue: of it.
        pool: of the threads that read; None for one of its own, a thread for each core, up to 8.
        cache: of regions on disk; one found there is not read, and only its patch is on the bill.
    """

    def __init__(
        self,
        slide: Slide,
        tissue: Tissue,
        *,
        pool: Executor | None = None,
        cache: PixelCache | None = None,
    ) -> None:
        self._slide, self._tissue, self._cache = slide, tissue, cache
        self._pool = pool or ThreadPoolExecutor(reading_threads())
        self._reads: OrderedDict[Region, Future[Pixels]] = OrderedDict()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 pixels."""
        return self._slide.size

    @property
    def mpp(self) -> float:
        """Microns per level-0 pixel."""
        return self._slide.mpp

    def request(
        self, boxes: Float[Tensor, "n 4"], size: tuple[int, int], *, step: int | None = None
    ) -> Future[UInt8[Tensor, "n 3 h w"]]:
        """Begin to read regions, and return at once; see `PixelSource`.

        The result raises SlideError where a region cannot be read.
        """
        regions = [(Box(*box), size) for box in boxes.tolist()]
        new = dict.fromkeys(region for region in regions if region not in self._reads)
        self._reads |= {region: self._pool.submit(self._read, *region) for region in new}
        if step is not None:
            self._slide.bill.add_patches(step, len(new))
        reads = [self._reads[region] for region in regions]
        self._forget(regions)
        # Queued behind the reads it waits for, so that even a single thread comes to it last.
        return self._pool.submit(_stacked, reads, size)

    def tissue(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        """Give the share of each box that is tissue."""
        return torch.from_numpy(self._tissue.fractions(boxes.double().cpu().numpy())).float()

    def close(self) -> None:
        """Cancel what is not being read yet and wait for the rest, so that the file may close."""
        for read in self._reads.values():
            read.cancel()
        wait(self._reads.values())

    def _read(self, box: Box, size: tuple[int, int]) -> Pixels:
        if self._cache is None:
            return self._slide.resample(box, size)
        name = f"{self._slide.fingerprint} {box} {size}"
        found = self._cache.get(name)
        if found is None:
            found = self._slide.resample(box, size)
            self._cache.put(name, found)
        return found

    def _forget(self, newest: Iterable[Region]) -> None:
        """Let go of the regions asked for longest ago; never of one still being read."""
        for region in newest:
            self._reads.move_to_end(region)
        for region in list(self._reads)[: max(0, len(self._reads) - REMEMBERED)]:
            if self._reads[region].done():
                del self._reads[region]


@dataclass(frozen=True)
class AugmentedSource:
    """A source mirrored and turned, with all that is asked of it: for training.

    Args:
        source: as it is.
        mirror: left and right first change places.
        turns: then so many quarter turns, counter-clockwise.
    """

    source: PixelSource
    mirror: bool
    turns: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, after turning."""
        width, height = self.source.size
        return (height, width) if self.turns % 2 else (width, height)

    @property
    def mpp(self) -> float:
        """Microns per level-0 pixel."""
        return self.source.mpp

    def request(
        self, boxes: Float[Tensor, "n 4"], size: tuple[int, int], *, step: int | None = None
    ) -> Future[UInt8[Tensor, "n 3 h w"]]:
        """Ask for the same places, and turn the pixels; see `PixelSource`."""
        turned: Future[UInt8[Tensor, "n 3 h w"]] = Future()
        inner = self.source.request(
            self._back(boxes), size[::-1] if self.turns % 2 else size, step=step
        )

        def turn(done: Future[UInt8[Tensor, "n 3 h w"]]) -> None:
            if (error := done.exception()) is not None:
                turned.set_exception(error)
                return
            pixels = done.result().flip(-1) if self.mirror else done.result()
            turned.set_result(pixels.rot90(self.turns, (-2, -1)))

        inner.add_done_callback(turn)
        return turned

    def tissue(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        """Give the share of each box that is tissue."""
        return self.source.tissue(self._back(boxes))

    def _back(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Find boxes where they lie without turning."""
        (x, y, width, height), (across, down) = boxes.unbind(dim=1), self.size
        for _ in range(self.turns):
            # A quarter turn took what was `right` from the right edge to `right` from the top.
            x, y, width, height = down - y - height, x, height, width
            across, down = down, across
        if self.mirror:
            x = across - x - width
        return torch.stack([x, y, width, height], dim=1)


def _stacked(reads: list[Future[Pixels]], size: tuple[int, int]) -> UInt8[Tensor, "n 3 h w"]:
    if not reads:
        return torch.empty(0, 3, *size, dtype=torch.uint8)
    pixels = np.stack([read.result() for read in reads])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
