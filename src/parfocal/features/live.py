"""A bag whose patches are read and encoded when asked for.

Features are rounded to float16 as the feature file's are, so a model cannot tell one from the
other. An encoder's answer for a patch depends in its last bits on the patches that share its
batch; rounded, two answers differ by at most one float16 step plus 1e-4 of the largest value.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from parfocal.bag import Bag, StoredBag
from parfocal.cost import uncounted
from parfocal.encoders.encoder import Encoder
from parfocal.features.cache import FeatureCache, SlideCache
from parfocal.grid import PatchGrid
from parfocal.slide.slide import Slide
from parfocal.slide.threads import threads

BATCHES_AHEAD = 2  # read while one is encoded; what bounds the memory
MOST_THREADS = 8

Pixels = UInt8[np.ndarray, "h w 3"]


def reading_threads() -> int:
    """Give how many threads read ahead: one for each core this process may use, up to 8."""
    return threads(MOST_THREADS)


@dataclass(frozen=True)
class PatchEncoder:
    """Reads patches of one slide in threads, and encodes them while later ones are read.

    Args:
        slide: to read from; its bill is written on.
        grid: of patches over it.
        encoder: of patches.
        threads: that read.
    """

    slide: Slide
    grid: PatchGrid
    encoder: Encoder
    threads: int

    def encode(
        self, step: int, rows: Int64[np.ndarray, " n"]
    ) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b d"]]]:
        """Give patches' features batch by batch, in the order asked for.

        Raises:
            SlideError: a patch cannot be read.
        """
        size, workers = self.encoder.batch, self.encoder.workers
        todo = (rows[start : start + size] for start in range(0, len(rows), size))
        macs = self.encoder.macs_per_patch(self.grid.patch_size)
        with ThreadPoolExecutor(max(self.threads, workers)) as pool:
            try:
                begun = deque(
                    (batch, self._begin(pool, step, batch))
                    for batch in islice(todo, workers + BATCHES_AHEAD)
                )
                while begun:
                    batch, finish = begun.popleft()
                    features = finish()
                    self.slide.bill.add_patches(step, len(batch))
                    self.slide.bill.add_macs(macs * len(batch))
                    yield batch, features
                    begun.extend((more, self._begin(pool, step, more)) for more in islice(todo, 1))
            finally:
                pool.shutdown(cancel_futures=True)

    def _begin(
        self, pool: ThreadPoolExecutor, step: int, batch: Int64[np.ndarray, " b"]
    ) -> Callable[[], Float[Tensor, "b d"]]:
        """Begin to read a batch in threads, and give what waits for its features."""
        boxes, mpp = self.grid.boxes(step, batch), self.grid.mpps[step]
        if self.encoder.workers > 1:
            # Each core reads and encodes a batch by itself, and waits for no other.
            return pool.submit(
                lambda: self._encode([self.slide.read(box, mpp) for box in boxes])
            ).result
        patches = [pool.submit(self.slide.read, box, mpp) for box in boxes]
        return lambda: self._encode([patch.result() for patch in patches])

    def _encode(self, patches: list[Pixels]) -> Float[Tensor, "b d"]:
        pixels = np.stack(patches)
        with self.slide.bill.timed("encode"), uncounted():
            return self.encoder(pixels)


class LiveRows:
    """One magnification, read and encoded when asked for; each patch once.

    A patch that does not exist is zero; it is not read, and not on the bill.

    Args:
        patches: what reads and encodes.
        step: of its grid.
        cache: looked up first, and filled.
    """

    def __init__(self, patches: PatchEncoder, step: int, *, cache: SlideCache | None) -> None:
        dim, device = patches.encoder.spec.dim, patches.encoder.device
        self.shape = torch.Size((patches.grid.counts[step], dim))
        self._patches, self._step, self._cache = patches, step, cache
        # Row 0 of what was seen is the feature of every patch that does not exist.
        self._seen = torch.zeros(1, dim, dtype=torch.float16, device=device)
        self._place = np.where(patches.grid.valid(step), -1, 0)

    def __getitem__(self, rows: Int64[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Give these rows, in this order."""
        wanted = rows.cpu().numpy()
        unseen = np.unique(wanted[self._place[wanted] < 0])
        batches = list(self._look(unseen))
        if batches:
            seen = np.concatenate([batch for batch, _ in batches])
            self._place[seen] = len(self._seen) + np.arange(len(seen))
            self._seen = torch.cat([self._seen, *(features for _, features in batches)])
        return self._seen[torch.from_numpy(self._place[wanted]).to(self._seen.device)]

    def _look(
        self, rows: Int64[np.ndarray, " n"]
    ) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b d"]]]:
        if self._cache is None:
            yield from self._encode(rows)
            return
        grid, side = self._patches.grid, self._patches.grid.side_px(self._step)
        with self._cache.opened() as shelf:
            found, cached = shelf.get(side, grid.coords(self._step, rows))
            yield rows[found], torch.from_numpy(cached).to(self._seen.device)
            for batch, features in self._encode(rows[~found]):
                shelf.put(side, grid.coords(self._step, batch), features.cpu().numpy())
                yield batch, features

    def _encode(
        self, rows: Int64[np.ndarray, " n"]
    ) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b d"]]]:
        for batch, features in self._patches.encode(self._step, rows):
            yield batch, features.to(torch.float16)


class live_bag:
    """A slide's patches, read and encoded as a model zooms; lowest magnification first.

    Each patch is read and encoded once in the life of the bag, and written on `slide.bill`;
    one found in the cache is neither read nor encoded, and not on the bill.

    Args:
        slide: to read from.
        grid: of patches over it.
        encoder: of patches; features are on its device.
        cache: kept between bags, on disk; None for none.
        threads: that read; None for one for each core, up to 8.
    """

    def __init__(
        self,
        slide: Slide,
        grid: PatchGrid,
        encoder: Encoder,
        *,
        cache: FeatureCache | None = None,
        threads: int | None = None,
    ) -> None:
        patches = PatchEncoder(slide, grid, encoder, threads or reading_threads())
        cached = None
        if cache is not None:
            cached = cache.of(slide.fingerprint, encoder.spec, patch_size=grid.patch_size)
        steps = range(len(grid.mpps))
        self._bag = StoredBag(
            [LiveRows(patches, step, cache=cached) for step in steps],
            valid=[torch.from_numpy(grid.valid(step)) for step in steps],
            cells=grid.cells,
        )

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Which patches these are, in the grid's nested order."""
        return self._bag.rows

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """False where a patch does not exist: beyond the edge of the scan, or nearly glass."""
        return self._bag.valid

    def features(self) -> Float[Tensor, "n d"]:
        """Read and encode what has not been; those that do not exist are zero.

        Raises:
            SlideError: a patch cannot be read.
        """
        return self._bag.features()

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Give (column, row) of the patches, on the lattice of their magnification."""
        return self._bag.cells()

    def zoom(self, select: Float[Tensor, "k n"] | None) -> Bag:
        """Go on to the children of the selected patches, at the next magnification."""
        return self._bag.zoom(select)
