"""A source of a slide's pixels, read in threads while the model computes.

source = SlidePixels(slide, find_tissue(slide))
future = source.request(boxes, (299, 299), step=0)  # returns at once
pixels = future.result()
"""

import sys
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
from parfocal.grid import Reach, reach_of_boxes
from parfocal.slide.slide import Box, Slide
from parfocal.slide.tissue import Tissue

MAX_KEPT = 256  # regions kept in memory, in case they are requested again; 66 MiB at 299 x 299

Pixels = UInt8[np.ndarray, "h w 3"]
Region = tuple[Box, tuple[int, int]]


class SlidePixels:
    """A slide's pixels. Each region is read once, and added to `slide.cost_meter`.

    Args:
        slide: slide to read from.
        tissue: tissue of the slide.
        pool: threads that read; None for a pool of its own, one thread per CPU core, at most 8.
        cache: regions on disk; None for no cache. A region found there counts as a patch, but its
            pixels do not count as decoded.
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
        """Start reading regions, and return at once; see `PixelSource`.

        `.result()` raises SlideError if a region cannot be read.
        """
        regions = [(Box(*box), size) for box in boxes.tolist()]
        new = dict.fromkeys(region for region in regions if region not in self._reads)
        if self._cache is None and self._slide.reads_ahead:
            self._slide.resample_ahead(list(new))
        self._reads |= {region: self._pool.submit(self._read, *region) for region in new}
        if step is not None:
            self._slide.cost_meter.add_patches(step, len(new))
        reads = [self._reads[region] for region in regions]
        self._drop_oldest(regions)
        # Queued after the reads that it waits for, so that a pool of one thread does not block.
        return self._pool.submit(_stack, reads, size)

    def tissue(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        """Return the share of tissue in each box."""
        return torch.from_numpy(self._tissue.fractions(boxes.double().cpu().numpy())).float()

    def reach(self, boxes: Float[Tensor, "n 4"], side: float) -> Reach:
        """Return the tissue that lies in none of some boxes; see `reach_of_boxes`."""
        return reach_of_boxes(self._tissue, boxes.double().cpu().numpy(), side)

    def close(self) -> None:
        """Cancel reads that have not started and wait for the others, before the file is closed."""
        for read in self._reads.values():
            read.cancel()
        if isinstance(sys.exception(), KeyboardInterrupt):
            self._slide.cancel()  # else the threads would wait for a network
        wait(self._reads.values())

    def _read(self, box: Box, size: tuple[int, int]) -> Pixels:
        if self._cache is None:
            return self._slide.resample(box, size)
        name = f"{self._slide.fingerprint} {box} {size}"
        pixels = self._cache.get(name)
        if pixels is None:
            pixels = self._slide.resample(box, size)
            self._cache.put(name, pixels)
        return pixels

    def _drop_oldest(self, newest: Iterable[Region]) -> None:
        """Drop the least recently requested regions, except those that are still being read."""
        for region in newest:
            self._reads.move_to_end(region)
        for region in list(self._reads)[: max(0, len(self._reads) - MAX_KEPT)]:
            if self._reads[region].done():
                del self._reads[region]


@dataclass(frozen=True)
class AugmentedSource:
    """A mirrored and rotated pixel source, for augmentation in training.

    Args:
        source: pixel source to transform.
        mirror: whether to swap left and right before rotating.
        quarter_turns: number of rotations by 90 degrees, counter-clockwise.
    """

    source: PixelSource
    mirror: bool
    quarter_turns: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 pixels, after rotation."""
        width, height = self.source.size
        return (height, width) if self.quarter_turns % 2 else (width, height)

    @property
    def mpp(self) -> float:
        """Microns per level-0 pixel."""
        return self.source.mpp

    def request(
        self, boxes: Float[Tensor, "n 4"], size: tuple[int, int], *, step: int | None = None
    ) -> Future[UInt8[Tensor, "n 3 h w"]]:
        """Start reading regions of the transformed slide; see `PixelSource`."""
        result: Future[UInt8[Tensor, "n 3 h w"]] = Future()
        inner = self.source.request(
            self._to_source(boxes), size[::-1] if self.quarter_turns % 2 else size, step=step
        )

        def transform(inner: Future[UInt8[Tensor, "n 3 h w"]]) -> None:
            if (error := inner.exception()) is not None:
                result.set_exception(error)
                return
            pixels = inner.result().flip(-1) if self.mirror else inner.result()
            result.set_result(pixels.rot90(self.quarter_turns, (-2, -1)))

        inner.add_done_callback(transform)
        return result

    def tissue(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        """Return the share of tissue in each box."""
        return self.source.tissue(self._to_source(boxes))

    def _to_source(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Convert boxes on the transformed slide to boxes on the source."""
        (x, y, box_width, box_height), (width, height) = boxes.unbind(dim=1), self.size
        for _ in range(self.quarter_turns):
            # Undo one turn: distance from the bottom edge becomes x, and x becomes y.
            x, y, box_width, box_height = height - y - box_height, x, box_height, box_width
            width, height = height, width
        if self.mirror:
            x = width - x - box_width
        return torch.stack([x, y, box_width, box_height], dim=1)


def _stack(reads: list[Future[Pixels]], size: tuple[int, int]) -> UInt8[Tensor, "n 3 h w"]:
    if not reads:
        return torch.empty(0, 3, *size, dtype=torch.uint8)
    pixels = np.stack([read.result() for read in reads])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
