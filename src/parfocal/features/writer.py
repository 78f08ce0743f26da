"""Write feature files, which get their name only when they are complete and on the disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from jaxtyping import Float, Int64

from parfocal.features.errors import StoreError, UnwritableError
from parfocal.features.hdf5 import error_cause
from parfocal.features.header import Header, group_names, write_group_header, write_header
from parfocal.features.rows import contiguous_runs
from parfocal.files import part_path, sync

CHUNK_ROWS = 256
CHUNK_CACHE_BYTES = 2**24  # more than one chunk of wide float32 rows

Dtype = Literal["float16", "float32"]


class FeatureWriter:
    """A feature file being written, still under a temporary name."""

    def __init__(self, path: Path, file: h5py.File, header: Header, dtype: Dtype) -> None:
        self._path, self._file = path, file
        self._tables: list[h5py.Dataset] = []
        with _writing(path):
            write_header(file.attrs, header)
            file["roots"] = header.grid.roots
            for step, name in enumerate(group_names(header.settings.magnifications)):
                group = file.create_group(name)
                write_group_header(group.attrs, header, step)
                group["coords"] = header.grid.coords(step)
                group["valid"] = header.grid.valid(step)
                if header.grid.shares is not None:
                    share = header.grid.shares[step]
                    group.create_dataset("tissue", data=share, compression="gzip", shuffle=True)
                shape = (header.grid.counts[step], header.encoders[step].dim)
                chunks = (min(CHUNK_ROWS, shape[0]), shape[1])
                self._tables.append(group.create_dataset("features", shape, dtype, chunks=chunks))

    def write(
        self, step: int, rows: Int64[np.ndarray, " n"], features: Float[np.ndarray, "n d"]
    ) -> None:
        """Write features of one magnification; rows that are never written are zero.

        Args:
            step: index of the magnification, 0 for the lowest.
            rows: ascending rows of the patches.
            features: features of the patches.
        """
        start = 0
        if not np.isfinite(features).all():
            raise StoreError(
                f"{self._path}: the encoder returned features that are not finite as "
                f"{features.dtype} numbers, so they are not stored. Check the slide and the "
                "encoder's weights."
            )
        with _writing(self._path):
            for run in contiguous_runs(rows, 1):
                self._tables[step][run[0] : run[-1] + 1] = features[start : start + len(run)]
                start += len(run)
            self._file.flush()  # so that errors are raised here; HDF5 hides those of closing


@contextmanager
def create(path: Path, header: Header, *, dtype: Dtype = "float16") -> Iterator[FeatureWriter]:
    """Write a feature file that gets its name only when it is complete and on the disk.

    If the `with` block fails or is interrupted, the incomplete file is removed.

    Args:
        path: file to write; an existing one is replaced.
        header: header of the file.
        dtype: type of the features.

    Raises:
        UnwritableError: the file cannot be written; a full disk is reported before the block runs.
    """
    make_folder(path.parent)
    part = part_path(path)
    try:
        with _writing(path):
            _reserve(part, _max_bytes(header, dtype))
            file = h5py.File(part, "r+", rdcc_nbytes=CHUNK_CACHE_BYTES, locking=False)
        try:
            yield FeatureWriter(path, file, header, dtype)
        finally:
            with _writing(path):
                file.close()
        with _writing(path):
            sync(part)
            part.replace(path)
            sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder for feature files unless it is there.

    Raises:
        UnwritableError: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableError(
            f"{folder}: the folder of the feature files cannot be created ({error.strerror}). "
            "Choose another."
        ) from error


def _max_bytes(header: Header, dtype: Dtype) -> int:
    """Return an upper bound of the size of a feature file."""
    position = 3 * 16 + 1  # corner, root, entry of the chunk index, and validity
    rows = sum(
        (count + CHUNK_ROWS) * (encoder.dim * np.dtype(dtype).itemsize + position)
        for count, encoder in zip(header.grid.counts, header.encoders, strict=True)
    )
    shares = sum(share.nbytes for share in header.grid.shares or ())
    return rows + shares + 2**20


def _reserve(path: Path, size: int) -> None:
    """Create an empty HDF5 file with its disk space allocated; HDF5 crashes on a full disk."""
    empty = BytesIO()
    h5py.File(empty, "w").close()
    with path.open("xb") as file:
        file.write(empty.getvalue())
        file.flush()
        if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            os.posix_fallocate(file.fileno(), 0, size)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 raises either
        raise UnwritableError(
            f"{path}: the feature file could not be written ({error_cause(error)}), and nothing "
            "of it was kept. Free space or choose another folder, then run again; finished slides "
            "are skipped."
        ) from error
