"""Read rows of features from HDF5 files, as fast as the disk allows however they are chunked.

HDF5 spends several microseconds on each chunk, and holds Python's lock meanwhile: files with one
row in a chunk, as other tools write them, are read five to nine times slower than ours, and the
threads of a training step wait. Rows that are stored as plain bytes are therefore read at their
positions in the file, which are looked up once.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import h5py
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.features.errors import StoreError
from parfocal.features.hdf5 import reading

READ_GAP_ROWS = 64  # up to this gap, one read is faster than two
NOT_WRITTEN = -1
FEATURE_NAMES = ("features", "feats")  # of a table that is the only one of its file

# What identifies the content of a file: it changes if the file is replaced or written to.
Signature = tuple[int, int, int]


@runtime_checkable
class RowReader(Protocol):
    """A stored table of features, of which rows are read."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and of features per row."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def name(self) -> str:
        """Name of the table in the file."""

    @property
    def tool(self) -> str:
        """Tool that wrote the table."""

    def read(self, rows: Int64[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """Return some rows.

        Args:
            rows: ascending rows, each once.

        Raises:
            StoreError: the file is missing or damaged.
        """


class StoredFeatures:
    """The features of one magnification, read when indexed.

    Args:
        reader: reads the rows of the file.
        device: device of the features.
        stored_rows: the row in the file of each row, -1 for features of zero; None if all rows are
            those of the file.
    """

    def __init__(
        self,
        reader: RowReader,
        *,
        device: torch.device,
        stored_rows: Int64[np.ndarray, " m"] | None = None,
    ) -> None:
        count, dim = reader.shape
        self.shape = torch.Size((count if stored_rows is None else len(stored_rows), dim))
        self.reader, self._device, self._stored_rows = reader, device, stored_rows

    def __getitem__(self, rows: Int64[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Return the features of some rows, in the order of `rows`.

        Raises:
            StoreError: the file is missing or damaged, or features are not finite.
        """
        wanted = rows.cpu().numpy()
        if self._stored_rows is not None:
            wanted = self._stored_rows[wanted]
        unique, inverse = np.unique(wanted[wanted >= 0], return_inverse=True)
        features = self.reader.read(unique)
        _require_finite(features, self.reader)
        if not np.array_equal(unique, wanted):
            every = np.zeros((len(wanted), features.shape[1]), features.dtype)
            every[wanted >= 0] = features[inverse]
            features = every
        native = features.astype(features.dtype.newbyteorder("="), copy=False)
        return torch.from_numpy(native).to(self._device)

    def all(self) -> Float[Tensor, "n d"]:
        """Return the features of all rows."""
        return self[torch.arange(self.shape[0])]


class Hdf5Rows:
    """The rows of a dataset in an HDF5 file, which is opened for each read only.

    Args:
        path: HDF5 file.
        name: dataset in the file, of rows and features.
        shape: number of rows, and of features per row.
        tool: tool that wrote the file, for messages.
    """

    def __init__(
        self, path: Path, name: str, shape: Sequence[int], *, tool: str = "parfocal"
    ) -> None:
        self.path, self.tool = path, tool
        self.shape = (shape[0], shape[1])
        self.name = name
        # Of the file with this signature: the type of the values, and where each row is; None if
        # rows are not stored as plain bytes.
        self._signature: Signature | None = None
        self._layout: tuple[np.dtype, Int64[np.ndarray, " n"]] | None = None

    def read(self, rows: Int64[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
        """Return some rows.

        Args:
            rows: ascending rows, each once.

        Raises:
            StoreError: the file is missing or damaged.
        """
        runs = contiguous_runs(rows, READ_GAP_ROWS)
        try:
            with self.path.open("rb", buffering=0) as file:
                layout = self._find_layout(_signature(file))
                if layout is not None:
                    return _join(
                        [
                            _pick(_read_range(file, *layout, self.shape[1], run), run)
                            for run in runs
                        ],
                        np.empty((0, self.shape[1]), layout[0]),
                    )
        except OSError:
            pass  # read below, which raises the error with its message
        with reading(self.path, tool=self.tool) as opened:
            dataset = opened[self.name]
            parts = [_pick(dataset[run[0] : run[-1] + 1], run) for run in runs]
            return _join(parts, dataset[:0])

    def _find_layout(self, signature: Signature) -> tuple[np.dtype, Int64[np.ndarray, " n"]] | None:
        """Return the type of the values and the position of each row, looked up if it is new."""
        if self._signature != signature:
            with reading(self.path, tool=self.tool) as opened:
                dataset = opened[self.name]
                positions = row_positions(dataset)
                self._layout = None
                if dataset.shape == self.shape and positions is not None:
                    self._layout = (dataset.dtype, positions)
            self._signature = signature
        return self._layout


def row_positions(dataset: h5py.Dataset) -> Int64[np.ndarray, " n"] | None:
    """Return the position of each row of a dataset in its file, in bytes.

    Args:
        dataset: table of numbers in an open file.

    Returns:
        The positions, -1 for rows that were never written and are zero; None if rows are not
        stored as plain bytes: compressed, in several pieces, in other files.
    """
    plist = dataset.id.get_create_plist()
    plain = (
        dataset.ndim == 2
        and dataset.dtype.kind in "fiu"
        and dataset.fillvalue == 0
        and not (plist.get_nfilters() or plist.get_external_count() or dataset.is_virtual)
        and not dataset.file.userblock_size
        and dataset.file.driver != "family"
    )
    if not plain:
        return None
    count, row_bytes = dataset.shape[0], dataset.shape[1] * dataset.dtype.itemsize
    if dataset.chunks is None:
        start = dataset.id.get_offset()
        return None if start is None else start + np.arange(count) * row_bytes
    if dataset.chunks[1] != dataset.shape[1] or not hasattr(dataset.id, "chunk_iter"):
        return None
    return _chunk_positions(dataset.id, count, dataset.chunks[0], row_bytes)


def contiguous_runs(rows: Int64[np.ndarray, " n"], max_gap: int) -> list[Int64[np.ndarray, " _"]]:
    """Split ascending rows wherever two neighbors are more than `max_gap` apart.

    >>> [run.tolist() for run in contiguous_runs(np.array([1, 2, 5, 6]), 1)]
    [[1, 2], [5, 6]]
    """
    if len(rows) == 0:
        return []
    return np.split(rows, np.flatnonzero(np.diff(rows) > max_gap) + 1)


def _chunk_positions(
    dataset: h5py.h5d.DatasetID, count: int, chunk_rows: int, row_bytes: int
) -> Int64[np.ndarray, " n"]:
    """Return the position of each row of a chunked dataset; -1 for rows of missing chunks."""
    starts = np.full(-(-count // chunk_rows), NOT_WRITTEN, dtype=np.int64)

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        starts[chunk.chunk_offset[0] // chunk_rows] = chunk.byte_offset

    dataset.chunk_iter(note)
    chunk, row = np.divmod(np.arange(count), chunk_rows)
    return np.where(starts[chunk] < 0, NOT_WRITTEN, starts[chunk] + row * row_bytes)


def _read_range(
    file: BinaryIO,
    dtype: np.dtype,
    positions: Int64[np.ndarray, " n"],
    dim: int,
    run: Int64[np.ndarray, " m"],
) -> Float[np.ndarray, "r d"]:
    """Read all rows from the first to the last of a run."""
    first, last = int(run[0]), int(run[-1])
    rows = np.zeros((last + 1 - first, dim), dtype)
    content, row_bytes = rows.reshape(-1).view(np.uint8).data, dim * dtype.itemsize
    for start, end in _pieces(positions[first : last + 1], row_bytes):
        file.seek(int(positions[first + start]))
        _fill(file, content[start * row_bytes : end * row_bytes])
    return rows


def _pieces(positions: Int64[np.ndarray, " n"], row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last + 1 of rows that follow each other in a file."""
    breaks = np.flatnonzero(np.diff(positions) != row_bytes) + 1
    for start, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(positions)], strict=True):
        if positions[start] != NOT_WRITTEN:
            yield start, end


def _fill(file: BinaryIO, content: memoryview) -> None:
    """Read bytes until a buffer is full."""
    while content:
        count = file.readinto(content)  # type: ignore[attr-defined]  # a raw file
        if not count:
            raise OSError("the file ends before its last row")
        content = content[count:]


def _pick(rows: Float[np.ndarray, "r d"], run: Int64[np.ndarray, " n"]) -> Float[np.ndarray, "n d"]:
    """Return the rows of a run from all rows from its first to its last."""
    return rows if len(rows) == len(run) else rows[run - run[0]]


def _join(
    parts: Sequence[Float[np.ndarray, "_ d"]], empty: Float[np.ndarray, "0 d"]
) -> Float[np.ndarray, "n d"]:
    """Join rows, without a copy if they are in one piece."""
    return parts[0] if len(parts) == 1 else np.concatenate([empty, *parts])


def _signature(file: BinaryIO) -> Signature:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def _require_finite(features: Float[np.ndarray, "n d"], reader: RowReader) -> None:
    """Raise a StoreError if features are not finite."""
    if np.isfinite(features).all():
        return
    bad = ~np.isfinite(features).all(axis=1)
    within = "" if reader.name in FEATURE_NAMES else f" in {reader.name}"
    found = (
        f"{reader.path}: features{within} are not finite in {np.count_nonzero(bad)} of the "
        f"{len(features)} rows that were read"
    )
    if features.dtype == np.float16 and not np.isnan(features).any():
        found += " (values beyond 65,504 do not fit float16)"
        raise StoreError(f"{found}. Extract this slide again with float32 features.")
    with_tool = "" if reader.tool == "parfocal" else f" with {reader.tool}"
    raise StoreError(f"{found}. Delete the file and extract again{with_tool}.")
