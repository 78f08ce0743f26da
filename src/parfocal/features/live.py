"""Bags whose patches are read and encoded when a model asks for their features.

Features are rounded to float16, like those of a feature file, so a model gets the same values from
both. In its last bits, an encoder's output for a patch depends on the other patches of the batch;
after rounding, two outputs differ by at most one float16 step plus 1e-4 of the largest value.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from parfocal.bag import StoredBag
from parfocal.cost import no_mac_counting
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.per_magnification import per_magnification
from parfocal.encoders.queue import EncoderQueue
from parfocal.features.cache import FeatureCache, SlideCache
from parfocal.grid import PatchGrid
from parfocal.slide.slide import Slide
from parfocal.threads import thread_count

BATCHES_AHEAD = 2  # batches read while another is encoded; limits the memory
MAX_THREADS = 8
MAX_AHEAD = 4096  # patches whose parts of a remote slide are fetched together, at most

Pixels = UInt8[np.ndarray, "h w 3"]


def reading_threads() -> int:
    """Return the default number of threads that read: one per available CPU core, at most 8."""
    return thread_count(MAX_THREADS)


def live_bag(
    slide: Slide,
    grid: PatchGrid,
    encoder: Encoder | Sequence[Encoder],
    *,
    cache: FeatureCache | None = None,
    threads: int | None = None,
) -> StoredBag:
    """Return a slide's bag whose patches are read and encoded as a model zooms.

    Each patch is read and encoded at most once, and added to `slide.cost_meter`. A patch found in
    the cache is neither read nor encoded, and adds nothing. `StoredBag.features` raises SlideError
    if a patch cannot be read.

    Args:
        slide: slide to read from, open as long as the bag is used.
        grid: patches of the slide.
        encoder: encoder of the patches, one for all magnifications or one for each, lowest first;
            features are on its device.
        cache: features kept on disk between bags; None for no cache.
        threads: number of threads that read; None for one per CPU core, at most 8.

    Returns:
        The bag at the lowest magnification.
    """
    encoders = per_magnification(encoder, len(grid.mpps))
    patches = PatchEncoder(slide, grid, encoders, threads or reading_threads())
    caches = [
        None
        if cache is None
        else cache.for_slide(slide.fingerprint, each.spec, patch_size=grid.patch_size)
        for each in encoders
    ]
    steps = range(len(grid.mpps))
    return StoredBag(
        [LiveFeatures(patches, step, cache=caches[step]) for step in steps],
        valid=[torch.from_numpy(grid.valid(step)) for step in steps],
        cells=grid.cells,
    )


@dataclass(frozen=True)
class PatchEncoder:
    """Reads patches of one slide in threads, and encodes them while the next ones are read.

    Args:
        slide: slide to read from; costs are added to its meter.
        grid: patches of the slide.
        encoders: encoder of each step of the grid.
        threads: number of threads that read.
    """

    slide: Slide
    grid: PatchGrid
    encoders: tuple[Encoder, ...]
    threads: int

    def encode(
        self, step: int, rows: Int64[np.ndarray, " n"]
    ) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b d"]]]:
        """Compute the features of patches, one batch at a time.

        Args:
            step: step of the grid.
            rows: rows of the patches at that step.

        Yields:
            The rows of each batch and their features, in the order of `rows`.

        Raises:
            SlideError: a patch cannot be read.
        """
        yield from self.start(step, rows).run()

    def start(self, step: int, rows: Int64[np.ndarray, " n"]) -> "StartedPatches":
        """Start to read patches, and return what computes their features.

        Args:
            step: step of the grid.
            rows: rows of the patches at that step.
        """
        return StartedPatches(self, step, rows)

    def batches(
        self, step: int, rows: Int64[np.ndarray, " n"]
    ) -> Iterator[Int64[np.ndarray, " b"]]:
        """Split rows into batches, and fetch what they need together, as far as memory allows."""
        size, fetched = self.encoders[step].batch_size, 0
        for start in range(0, len(rows), size):
            if self.slide.reads_ahead and fetched < min(start + size, len(rows)):
                boxes = self.grid.boxes(step, rows[start : start + MAX_AHEAD])
                fetched = start + self.slide.read_ahead(boxes, self.grid.mpps[step])
            yield rows[start : start + size]

    def start_batch(
        self, pool: ThreadPoolExecutor, step: int, batch: Int64[np.ndarray, " b"]
    ) -> Callable[[], Float[Tensor, "b d"]]:
        """Start reading a batch in threads, and return a function that waits for its features."""
        boxes, mpp = self.grid.boxes(step, batch), self.grid.mpps[step]
        if self.encoders[step].workers > 1:
            # Each core reads and encodes a whole batch, and does not wait for the others.
            return pool.submit(
                lambda: self._encode(step, [self.slide.read(box, mpp) for box in boxes])
            ).result
        patches = [pool.submit(self.slide.read, box, mpp) for box in boxes]
        return lambda: self._encode(step, [patch.result() for patch in patches])

    def _encode(self, step: int, patches: list[Pixels]) -> Float[Tensor, "b d"]:
        encoder, meter, pixels = self.encoders[step], self.slide.cost_meter, np.stack(patches)
        with no_mac_counting():
            if isinstance(encoder, EncoderQueue):  # which may encode patches of other slides, too
                features, seconds = encoder.encode_timed(pixels)
                meter.add_seconds("encode", seconds)
                return features
            with meter.measure_time("encode"):
                return encoder(pixels)


class StartedPatches:
    """Patches of one step of a grid, of which the first batches are being read.

    Args:
        patches: reads and encodes patches.
        step: step of the grid.
        rows: rows of the patches at that step.
    """

    def __init__(self, patches: PatchEncoder, step: int, rows: Int64[np.ndarray, " n"]) -> None:
        self._patches, self._step = patches, step
        workers = patches.encoders[step].workers
        self._batches = patches.batches(step, rows)
        self._pool = ThreadPoolExecutor(max(patches.threads, workers))
        self._started: deque[tuple[Int64[np.ndarray, " _"], Callable[[], Tensor]]] = deque()
        self._is_last_read = False
        try:
            self._start(workers + BATCHES_AHEAD)
        except BaseException as error:
            self._stop(error)
            raise

    def run(
        self, *, when_read: Callable[[], None] | None = None
    ) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b d"]]]:
        """Compute the features, one batch at a time; see `PatchEncoder.encode`.

        Args:
            when_read: called once, when the last batch is being read.
        """
        slide, macs = self._patches.slide, self._patches.encoders[self._step].macs_per_patch()
        try:
            while self._started:
                if when_read is not None and self._is_last_read:
                    when_read()
                    when_read = None
                batch, finish = self._started.popleft()
                features = finish()
                slide.cost_meter.add_patches(
                    self._step, len(batch), macs=None if macs is None else macs * len(batch)
                )
                yield batch, features
                self._start(1)
        except BaseException as error:
            self._stop(error)
            raise
        self.close()

    def close(self) -> None:
        """Cancel reads that have not started, and wait for the others."""
        self._pool.shutdown(cancel_futures=True)

    def _stop(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._patches.slide.cancel()  # else the threads would wait for a network
        self.close()

    def _start(self, count: int) -> None:
        """Start to read some more batches."""
        wanted = len(self._started) + count
        for batch in islice(self._batches, count):
            read = self._patches.start_batch(self._pool, self._step, batch)
            self._started.append((batch, read))
        self._is_last_read = len(self._started) < wanted


class LiveFeatures:
    """The features of one magnification, computed when first indexed.

    A patch that does not exist has features of zero; it is not read and adds no cost.

    Args:
        patches: reads and encodes patches.
        step: step of the grid.
        cache: features on disk, looked up first and added to; None for no cache.
    """

    def __init__(self, patches: PatchEncoder, step: int, *, cache: SlideCache | None) -> None:
        dim, device = patches.encoders[step].spec.dim, patches.encoders[step].device
        self.shape = torch.Size((patches.grid.counts[step], dim))
        self._patches, self._step, self._cache = patches, step, cache
        # Row 0 holds the features of every patch that does not exist.
        self._features = torch.zeros(1, dim, dtype=torch.float16, device=device)
        # For each patch, its row in self._features; -1 if not computed yet.
        self._index = np.where(patches.grid.valid(step), -1, 0)

    def __getitem__(self, rows: Int64[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Return the features of some patches, in the order of `rows`."""
        wanted = rows.cpu().numpy()
        new = np.unique(wanted[self._index[wanted] < 0])
        batches = list(self._load(new))
        if batches:
            loaded = np.concatenate([batch for batch, _ in batches])
            self._index[loaded] = len(self._features) + np.arange(len(loaded))
            self._features = torch.cat([self._features, *(features for _, features in batches)])
        return self._features[torch.from_numpy(self._index[wanted]).to(self._features.device)]

    def _load(
        self, rows: Int64[np.ndarray, " n"]
    ) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b d"]]]:
        """Load features from the cache, and compute and cache the others."""
        if self._cache is None:
            yield from self._encode(rows)
            return
        grid, side = self._patches.grid, self._patches.grid.side_px(self._step)
        with self._cache.connect() as connection:
            found, cached = connection.get(side, grid.coords(self._step, rows))
            yield rows[found], torch.from_numpy(cached).to(self._features.device)
            for batch, features in self._encode(rows[~found]):
                coords = grid.coords(self._step, batch)
                connection.put(side, coords, features.cpu().numpy())
                yield batch, features

    def _encode(
        self, rows: Int64[np.ndarray, " n"]
    ) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b d"]]]:
        for batch, features in self._patches.encode(self._step, rows):
            yield batch, features.to(torch.float16)
