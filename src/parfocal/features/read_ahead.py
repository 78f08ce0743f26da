"""Read features in a thread while another slide is computed.

All patches of the lowest magnification are visited, so they are read ahead. Which patches of the
higher magnifications a zooming model visits is known only when it does so; it is likely to visit
those that it visited the last time, so these are read ahead, and the others when they are needed.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from parfocal.bag import FeatureTable
from parfocal.features.rows import StoredFeatures

# Of the rows of one table above the lowest magnification. More are read when they are needed: they
# take long anyway, and two slides at a time are in memory.
MOST_BYTES = 2**30
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Reading:
    """Rows of a table to read.

    Args:
        open_table: function that opens the table.
        rows: ascending rows, each once; None for all.
        most_bytes: limit of the bytes in memory, above which nothing is read; None for no limit.
    """

    open_table: Callable[[], StoredFeatures]
    rows: Int64[np.ndarray, " n"] | None = None
    most_bytes: int | None = None

    def read(self) -> "RowsRead | None":
        """Read the rows, in single precision at least, as `StoredBag.features` returns them."""
        if self.rows is not None and len(self.rows) == 0:
            return None
        table = self.open_table()
        count, dim = table.shape
        rows = np.arange(count) if self.rows is None else self.rows
        if self.most_bytes is not None and len(rows) * dim * FLOAT32_BYTES > self.most_bytes:
            return None
        features = table[torch.from_numpy(rows)]
        wider = features.to(torch.promote_types(features.dtype, torch.float32))
        return RowsRead(wider, count, self.rows)


@dataclass(frozen=True)
class RowsRead:
    """Rows of a table in memory.

    Args:
        features: features of the rows.
        count: number of rows of the table.
        rows: the rows, ascending; None for all.
    """

    features: Float[Tensor, "n d"]
    count: int
    rows: Int64[np.ndarray, " n"] | None = None

    def positions(self, wanted: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """Return the position of each wanted row in `features`; -1 for a row that is not there."""
        if self.rows is None:
            return wanted
        index = np.full(self.count, -1, dtype=np.int64)
        index[self.rows] = np.arange(len(self.rows))
        found: Int64[np.ndarray, " m"] = index[wanted]
        return found


class Pending:
    """Rows that are being read in a thread.

    Args:
        future: what the thread returns.
    """

    def __init__(self, future: Future[RowsRead | None]) -> None:
        self._future = future

    def cancel(self) -> None:
        """Do not read the rows, unless that has begun."""
        self._future.cancel()

    def result(self) -> RowsRead | None:
        """Return the rows; None if reading them has not begun or has failed.

        An error is not reported: whoever needs the rows reads them again, and gets it.
        """
        if self._future.cancel() or self._future.exception() is not None:
            return None
        return self._future.result()


class ReadAhead:
    """Tables of features of which rows are read in a thread before they are needed."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None  # no thread until it is needed
        self._started: dict[str, tuple[Pending, ...]] = {}

    def start(self, wanted: Mapping[str, Sequence[Reading]]) -> None:
        """Start to read tables of slides, and drop those of other slides, to limit the memory.

        Args:
            wanted: what to read of each slide, by its id; one reading per magnification.
        """
        for slide_id in self._started.keys() - wanted.keys():
            for pending in self._started.pop(slide_id):
                pending.cancel()
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        for slide_id, readings in wanted.items():
            if slide_id not in self._started:
                self._started[slide_id] = tuple(
                    Pending(self._pool.submit(reading.read)) for reading in readings
                )

    def take(self, slide_id: str) -> tuple[Pending, ...]:
        """Remove and return what is read of a slide; empty if nothing was started."""
        return self._started.pop(slide_id, ())


class AheadTable:
    """A table of features of which some rows were read ahead.

    Args:
        table: the table, from which the other rows are read.
        pending: the rows that were read ahead.
    """

    def __init__(self, table: FeatureTable, pending: Pending) -> None:
        self.shape = table.shape
        self._table, self._pending = table, pending
        self._read: RowsRead | None = None
        self._is_taken = False
        self._visited: Bool[np.ndarray, " n"] = np.zeros(self.shape[0], dtype=bool)

    def __getitem__(self, rows: Int64[Tensor, " n"], /) -> Float[Tensor, "n d"]:
        """Return the features of some rows.

        Raises:
            StoreError: the file is missing or damaged, or features are not finite.
        """
        wanted = rows.cpu().numpy()
        self._visited[wanted] = True
        if not self._is_taken:
            self._read, self._is_taken = self._pending.result(), True
        if self._read is None:
            return self._table[rows]
        positions = torch.from_numpy(self._read.positions(wanted))
        missing = positions < 0
        if bool(missing.all()):
            return self._table[rows]
        features = self._read.features[positions.clamp(min=0).to(self._read.features.device)]
        if bool(missing.any()):
            features[missing.to(features.device)] = self._table[rows[missing]].to(features.dtype)
        return features

    @property
    def visited(self) -> UInt8[np.ndarray, " b"]:
        """Whether each row was requested, one bit per row."""
        return np.packbits(self._visited)


def rows_of(visited: UInt8[np.ndarray, " b"]) -> Int64[np.ndarray, " n"]:
    """Return the rows of `AheadTable.visited`, ascending."""
    return np.flatnonzero(np.unpackbits(visited))
