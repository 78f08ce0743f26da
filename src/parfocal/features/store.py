"""The feature file: write, read, check. One HDF5 file a slide, laid out as docs/formats.md says."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Literal
from uuid import uuid4

import h5py
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.bag import StoredBag
from parfocal.encoders.encoder import EncoderSpec
from parfocal.features.errors import MixedFeaturesError, StoreError, UnwritableError
from parfocal.features.header import (
    Header,
    SlideSettings,
    check_format,
    group_names,
    read_header,
    write_header,
)
from parfocal.files import sync
from parfocal.slide.slide import Slide

CHUNK_ROWS = 256
CHUNK_CACHE_BYTES = 2**24  # more than one chunk of wide float32 rows
NEAR_ROWS = 64  # one read over a gap of so many rows costs less than two reads

Dtype = Literal["float16", "float32"]


class StoredRows:
    """One magnification of a feature file; reads the rows asked for, and no handle stays open.

    Args:
        path: the feature file.
        name: the dataset in it.
        shape: rows and features per row.
        device: where the rows are wanted.
    """

    def __init__(self, path: Path, name: str, *, shape: torch.Size, device: torch.device) -> None:
        self.shape = shape
        self._path, self._name, self._device = path, name, device

    def __getitem__(self, rows: Int64[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Give these rows, in this order."""
        wanted, back = np.unique(rows.cpu().numpy(), return_inverse=True)
        with _reading(self._path) as file:
            dataset = file[self._name]
            parts = [dataset[:0]]
            for run in runs(wanted, NEAR_ROWS):
                parts.append(dataset[run[0] : run[-1] + 1][run - run[0]])
        return torch.from_numpy(np.concatenate(parts))[back].to(self._device)


class FeatureFile:
    """One slide's features at every magnification, written once and whole.

    It holds no open handle: it can be pickled, and used after a fork.

    Args:
        path: the HDF5 file.

    Raises:
        StoreError: there is no such file, it is damaged, or of a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path) as file:
            check_format(path, file.attrs)
            groups = group_names(file.attrs["magnifications"].tolist())
            exists = [file[f"{group}/valid"][:] for group in groups]
            self.header = read_header(file.attrs, file["roots"][:], exists)
            self._names = [f"{group}/features" for group in groups]
            self._shapes = [torch.Size(file[name].shape) for name in self._names]

    @property
    def encoder(self) -> EncoderSpec:
        """The encoder that made the features."""
        return self.header.encoder

    @property
    def magnifications(self) -> tuple[float, ...]:
        """Magnifications as asked for, lowest first."""
        return self.header.settings.magnifications

    @property
    def mpps(self) -> tuple[float, ...]:
        """Achieved microns per pixel, coarse to fine."""
        return self.header.grid.mpps

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.header.settings.patch_size

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the slide file the features are of."""
        return self.header.fingerprint

    @cached_property
    def levels(self) -> tuple[StoredRows, ...]:
        """A table of rows a magnification, on the CPU."""
        return self._levels(range(len(self.magnifications)), torch.device("cpu"))

    def coords(self, step: int) -> Int64[np.ndarray, "n 2"]:
        """Give the (x, y) of the patches' top-left corners, in level-0 pixels."""
        return self.header.grid.coords(step)

    def step(self, magnification: float) -> int:
        """Give the step of a magnification, 0 the lowest stored.

        Raises:
            MixedFeaturesError: it is not stored.
        """
        names = group_names(self.magnifications)
        name = group_names([magnification])[0]
        if name not in names:
            raise MixedFeaturesError(
                f"{self.path}: the features are of {', '.join(names)}, and {name} is asked for. "
                "Leave it out, or extract again with it into another folder."
            )
        return names.index(name)

    def bag(
        self,
        magnifications: Sequence[float] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> StoredBag:
        """Give the slide as a bag, whose rows are read when asked for.

        Args:
            magnifications: some of those stored, lowest first; None for all. Which patches
                there are was decided at the lowest one stored, also where that is left out.
            device: where the features are wanted.

        Raises:
            MixedFeaturesError: one of them is not stored.
        """
        steps = [self.step(wanted) for wanted in magnifications or self.magnifications]
        grid = self.header.grid

        def cells(step: int, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n 2"]:
            return grid.cells(steps[step], rows)

        valid = [torch.from_numpy(grid.valid(step)) for step in steps]
        return StoredBag(self._levels(steps, torch.device(device)), valid=valid, cells=cells)

    def check(
        self, encoder: EncoderSpec, settings: SlideSettings, *, slide: Slide | None = None
    ) -> None:
        """Refuse features that were not made as asked.

        Args:
            encoder: its name, weights, input size and normalization count.
            settings: all count, but more magnifications may be stored than are asked for.
            slide: the file they should be of, at the mpp it has now; None where it is not at hand.

        Raises:
            MixedFeaturesError: naming both sides, and what to do.
        """
        stored = self.header.settings
        self._same("encoder", _named(self.encoder), _named(encoder))
        self._same("preparation of pixels", _prepared(self.encoder), _prepared(encoder))
        self._same("patch size", stored.patch_size, settings.patch_size)
        self._same("tissue method", stored.tissue, settings.tissue)
        self._same("min_tissue", stored.min_tissue, settings.min_tissue)
        self._same("children", stored.children, settings.children)
        for magnification in settings.magnifications:
            self.step(magnification)
        if slide is not None:
            self._same("slide fingerprint", self.fingerprint, slide.fingerprint)
            self._same("slide mpp", self.header.grid.slide_mpp, slide.mpp)

    def _same(self, what: str, stored: object, asked: object) -> None:
        if stored != asked:
            raise MixedFeaturesError(
                f"{self.path}: the features were made with {what} {stored}, and now it is {asked}; "
                "the two do not mix. Go back to the former, or extract again into another folder."
            )

    def _levels(self, steps: Sequence[int], device: torch.device) -> tuple[StoredRows, ...]:
        return tuple(
            StoredRows(self.path, self._names[step], shape=self._shapes[step], device=device)
            for step in steps
        )


class FeatureWriter:
    """An open feature file, not yet under its name."""

    def __init__(self, path: Path, file: h5py.File, header: Header, dtype: Dtype) -> None:
        self._path, self._file = path, file
        self._tables: list[h5py.Dataset] = []
        with _writing(path):
            write_header(file.attrs, header)
            file["roots"] = header.grid.roots
            for step, name in enumerate(group_names(header.settings.magnifications)):
                group = file.create_group(name)
                group.attrs["mpp"] = header.grid.mpps[step]
                group["coords"] = header.grid.coords(step)
                group["valid"] = header.grid.valid(step)
                shape = (header.grid.counts[step], header.encoder.dim)
                chunks = (min(CHUNK_ROWS, shape[0]), shape[1])
                self._tables.append(group.create_dataset("features", shape, dtype, chunks=chunks))

    def write(
        self, step: int, rows: Int64[np.ndarray, " n"], features: Float[np.ndarray, "n d"]
    ) -> None:
        """Write ascending rows of one step; those never written are zero."""
        start = 0
        with _writing(self._path):
            for run in runs(rows, 1):
                self._tables[step][run[0] : run[-1] + 1] = features[start : start + len(run)]
                start += len(run)
            self._file.flush()  # so that a failure is raised here; HDF5 hides those of closing


@contextmanager
def create(path: Path, header: Header, *, dtype: Dtype = "float16") -> Iterator[FeatureWriter]:
    """Write a feature file that takes its name only when whole and on the disk.

    Whatever interrupts the block, what had been written is removed.

    Raises:
        UnwritableError: it cannot be, as when the disk is full; told before the block begins.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _writing(path):
            _reserve(part, _bytes_needed(header, dtype))
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


def _bytes_needed(header: Header, dtype: Dtype) -> int:
    """Give an upper bound of a feature file's size."""
    row = header.encoder.dim * np.dtype(dtype).itemsize
    place = 3 * 16 + 1  # its corner, as one of the roots, in the chunks' index, its validity
    rows = sum(count + CHUNK_ROWS for count in header.grid.counts)
    return rows * (row + place) + 2**20


def _reserve(path: Path, size: int) -> None:
    """Make an empty HDF5 file with its room on the disk: HDF5 crashes where that runs out."""
    empty = BytesIO()
    h5py.File(empty, "w").close()
    with path.open("xb") as file:
        file.write(empty.getvalue())
        file.flush()
        os.posix_fallocate(file.fileno(), 0, size)


def feature_path(folder: Path, slide_id: str) -> Path:
    """Give the place of a slide's feature file.

    Raises:
        ValueError: the id cannot be a file's name.
    """
    if Path(slide_id).name != slide_id:
        raise ValueError(
            f"the slide id {slide_id!r} cannot name its feature file; use one without '/'."
        )
    return folder / f"{slide_id}.h5"


def runs(rows: Int64[np.ndarray, " n"], max_gap: int) -> list[Int64[np.ndarray, " _"]]:
    """Cut ascending rows where two neighbors lie further apart than that.

    >>> [run.tolist() for run in runs(np.array([1, 2, 5, 6]), 1)]
    [[1, 2], [5, 6]]
    """
    if len(rows) == 0:
        return []
    return np.split(rows, np.flatnonzero(np.diff(rows) > max_gap) + 1)


def _named(encoder: EncoderSpec) -> str:
    return f"{encoder.name} (weights {encoder.weights_hash})"


def _prepared(encoder: EncoderSpec) -> str:
    return (
        f"{encoder.input_size} px {encoder.interpolation}, mean {encoder.mean}, std {encoder.std}"
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 says either
        raise UnwritableError(
            f"{path}: the feature file could not be written ({_cause(error)}), and nothing of it "
            "was kept. Free space or choose another folder, then run again: it goes on from here."
        ) from error


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    """Open a feature file for one read; no locks, which network file systems refuse."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError:
        raise StoreError(
            f"{path}: there is no such feature file. Run `parfocal extract` for this slide."
        ) from None
    except (OSError, RuntimeError, KeyError) as error:
        raise StoreError(
            f"{path}: not a whole feature file ({_cause(error)}). Delete it and extract again."
        ) from error


def _cause(error: Exception) -> str:
    """Give the system's own words for an error, where HDF5 wraps them in its own."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error.args[0]).splitlines()[0]
