"""Read and check feature files: one HDF5 file per slide; docs/formats.md has the layout."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from math import ceil
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from parfocal.bag import StoredBag
from parfocal.encoders.spec import EncoderSpec
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.header import SlideSettings, check_format, group_names, read_header
from parfocal.features.selection import Selection, SelectionError, select_steps
from parfocal.grid import GridError
from parfocal.slide.given_tissue import tissue_fingerprint
from parfocal.slide.slide import Slide

# What h5py, numpy and the checks of the values raise if a file does not hold what it should.
WRONG_CONTENT = (
    *(OSError, RuntimeError, MemoryError),
    *(KeyError, IndexError, AttributeError, TypeError, ValueError, OverflowError),
)
READ_GAP_ROWS = 64  # up to this gap, one read is faster than two


class StoredFeatures:
    """The features of one magnification in a feature file, read when indexed.

    The file is opened for each read only.

    Args:
        path: feature file.
        name: HDF5 dataset in the file.
        shape: number of rows in the file, and features per row.
        device: device of the features.
        stored_rows: the row in the file of each row, -1 for features of zero; None if all rows are
            those of the file.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        shape: torch.Size,
        device: torch.device,
        stored_rows: Int64[np.ndarray, " m"] | None = None,
    ) -> None:
        self.shape = shape if stored_rows is None else torch.Size((len(stored_rows), shape[1]))
        self._path, self._name, self._device = path, name, device
        self._stored_rows = stored_rows

    def __getitem__(self, rows: Int64[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Return the features of some rows, in the order of `rows`."""
        wanted = rows.cpu().numpy()
        if self._stored_rows is not None:
            wanted = self._stored_rows[wanted]
        unique, inverse = np.unique(wanted[wanted >= 0], return_inverse=True)
        with _reading(self._path) as file:
            dataset = file[self._name]
            parts = [dataset[:0]]
            for run in contiguous_runs(unique, READ_GAP_ROWS):
                parts.append(dataset[run[0] : run[-1] + 1][run - run[0]])
        features = np.concatenate(parts)[inverse]
        if not np.isfinite(features).all():
            raise StoreError(
                f"{self._path}: features in {self._name} are not finite. Delete the file and "
                "extract again."
            )
        if len(features) < len(wanted):
            every = np.zeros((len(wanted), features.shape[1]), features.dtype)
            every[wanted >= 0] = features
            features = every
        return torch.from_numpy(features).to(self._device)


class FeatureFile:
    """The features of one slide at every magnification.

    The file is opened for each read only, so an instance can be pickled, or used after a fork.

    Args:
        path: HDF5 file.

    Raises:
        StoreError: the file is missing, damaged, or of a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path) as file:
            self.format_version = check_format(path, file.attrs)
            groups = group_names(file.attrs["magnifications"].tolist())
            exists = [_read_array(file, f"{group}/valid", "b", 1) for group in groups]
            self._names = [f"{group}/features" for group in groups]
            has_shares = any("tissue" in file[group] for group in groups)
            shares = [_read_array(file, f"{g}/tissue", "f", 2) for g in groups if has_shares]
            roots = _read_array(file, "roots", "iu", 2).astype(np.int64)
            self.header = read_header(file.attrs, roots, exists, shares)
            self._selections: dict[tuple[float, ...], Selection] = {}
            self._check_grid()
            self._shapes = [self._check_features(file, step) for step in range(len(groups))]

    def _check_grid(self) -> None:
        """Raise a ValueError if the arrays of the grid do not have the sizes that belong to it."""
        grid = self.header.grid
        for step, count in enumerate(grid.counts):
            if len(grid.valid(step)) != count:
                raise ValueError(f"valid: {len(grid.valid(step))} patches, not {count}")
            if grid.shares is None:
                continue
            width, height = (max(1, ceil(size / grid.side_px(step))) for size in grid.slide_size)
            shares = grid.shares[step]
            if shares.shape != (height, width) or not ((shares >= 0) & (shares <= 1)).all():
                raise ValueError(f"tissue: not {height} x {width} numbers in 0..1")

    def _check_features(self, file: h5py.File, step: int) -> torch.Size:
        """Return the shape of the features of one magnification.

        Raises:
            ValueError: it is not that of the patches and the encoder.
        """
        dataset = file[self._names[step]]
        expected = (self.header.grid.counts[step], self.header.encoder.dim)
        if dataset.dtype.kind != "f" or dataset.shape != expected:
            raise ValueError(
                f"{self._names[step]} has {dataset.dtype} and shape {dataset.shape}, not {expected}"
            )
        return torch.Size(expected)

    @property
    def encoder(self) -> EncoderSpec:
        """Encoder of the features."""
        return self.header.encoder

    @property
    def magnifications(self) -> tuple[float, ...]:
        """Stored magnifications as requested, lowest first."""
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
        """Fingerprint of the slide file."""
        return self.header.fingerprint

    @cached_property
    def levels(self) -> tuple[StoredFeatures, ...]:
        """Features of each magnification, on the CPU."""
        return self._levels(range(len(self.magnifications)), None, torch.device("cpu"))

    def coords(self, step: int) -> Int64[np.ndarray, "n 2"]:
        """Return (x, y) of the patches' top-left corners, in level-0 pixels."""
        return self.header.grid.coords(step)

    def step(self, magnification: float) -> int:
        """Return the index of a magnification, 0 for the lowest stored.

        Raises:
            MixedFeaturesError: the magnification is not stored.
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
        """Return the slide's bag, whose features are read when a model asks for them.

        Args:
            magnifications: stored magnifications to use, lowest first; None for all. The bag has
                the patches that a live bag of exactly these has.
            device: device of the features.

        Raises:
            MixedFeaturesError: a magnification or a patch is not stored.
        """
        magnifications = magnifications or self.magnifications
        steps = [self.step(magnification) for magnification in magnifications]
        selection = self.select(magnifications)
        tables = self._levels(steps, selection.rows, torch.device(device))
        valid = [torch.from_numpy(exists) for exists in selection.valid]
        return StoredBag(tables, valid=valid, cells=selection.cells)

    def select(self, magnifications: Sequence[float]) -> Selection:
        """Return the patches of some of the magnifications.

        Args:
            magnifications: stored magnifications to use, lowest first.

        Raises:
            MixedFeaturesError: a magnification or a patch is not stored.
        """
        key = tuple(magnifications)
        if key not in self._selections:
            steps = [self.step(magnification) for magnification in key]
            try:
                self._selections[key] = select_steps(self.header.grid, steps, key)
            except (SelectionError, GridError) as error:
                names = ", ".join(group_names(key))
                raise MixedFeaturesError(
                    f"{self.path}: the features cannot be used at {names} alone: {error}. Extract "
                    f"again at {names} into another folder, or use all magnifications of the file."
                ) from None
        return self._selections[key]

    def check(
        self,
        encoder: EncoderSpec,
        settings: SlideSettings,
        *,
        slide: Slide | None = None,
        tissue: Path | None = None,
    ) -> None:
        """Check that the features are by an encoder and of the patches expected.

        Args:
            encoder: expected encoder: its name, weights and preparation of pixels must be equal.
            settings: expected patches: all settings must be equal, except that more magnifications
                may be stored.
            slide: expected slide, at its present mpp; None to skip this check.
            tissue: expected tissue file; None for tissue that was found.

        Raises:
            MixedFeaturesError: something differs.
        """
        stored = self.header.settings
        self._check_equal("encoder", _encoder_text(self.encoder), _encoder_text(encoder))
        self._check_equal(
            "preparation of pixels", _preparation_text(self.encoder), _preparation_text(encoder)
        )
        self._check_equal("patch size", stored.patch_size, settings.patch_size)
        self._check_equal("tissue method", stored.tissue, settings.tissue)
        self._check_equal(
            "tissue",
            _tissue_text(self.header.tissue_fingerprint),
            _tissue_text(tissue_fingerprint(tissue, settings.exclude_classes)),
        )
        self._check_equal("min_tissue", stored.min_tissue, settings.min_tissue)
        self._check_equal("children", stored.children, settings.children)
        if len(stored.magnifications) > 1:  # at one magnification, both rules are the same
            self._check_equal("slide.roots", stored.roots, settings.roots)
        self.select(settings.magnifications)
        if slide is not None:
            self._check_equal("slide fingerprint", self.fingerprint, slide.fingerprint)
            self._check_equal("slide mpp", self.header.grid.slide_mpp, slide.mpp)

    def _check_equal(self, name: str, stored: object, expected: object) -> None:
        if stored != expected:
            raise MixedFeaturesError(
                f"{self.path}: the features were made with {name} {stored}, and now it is "
                f"{expected}; the two do not mix. Use the former, or extract again into another "
                "folder."
            )

    def _levels(
        self,
        steps: Sequence[int],
        rows: Sequence[Int64[np.ndarray, " _"]] | None,
        device: torch.device,
    ) -> tuple[StoredFeatures, ...]:
        return tuple(
            StoredFeatures(
                self.path,
                self._names[step],
                shape=self._shapes[step],
                device=device,
                stored_rows=None if rows is None else rows[index],
            )
            for index, step in enumerate(steps)
        )


def feature_path(folder: Path, slide_id: str) -> Path:
    """Return the path of a slide's feature file.

    Raises:
        ValueError: the id cannot be a file name.
    """
    if Path(slide_id).name != slide_id:
        raise ValueError(
            f"the slide id {slide_id!r} cannot name its feature file; use one without '/'."
        )
    return folder / f"{slide_id}.h5"


def contiguous_runs(rows: Int64[np.ndarray, " n"], max_gap: int) -> list[Int64[np.ndarray, " _"]]:
    """Split ascending rows wherever two neighbors are more than `max_gap` apart.

    >>> [run.tolist() for run in contiguous_runs(np.array([1, 2, 5, 6]), 1)]
    [[1, 2], [5, 6]]
    """
    if len(rows) == 0:
        return []
    return np.split(rows, np.flatnonzero(np.diff(rows) > max_gap) + 1)


def _encoder_text(encoder: EncoderSpec) -> str:
    return f"{encoder.name} (weights {encoder.weights_hash})"


def _tissue_text(fingerprint: str) -> str:
    return f"from a file ({fingerprint[:8]})" if fingerprint else "found on the slide"


def _preparation_text(encoder: EncoderSpec) -> str:
    return (
        f"{encoder.input_size} px {encoder.interpolation}, mean {encoder.mean}, std {encoder.std}"
    )


def _read_array(file: h5py.File, name: str, kinds: str, ndim: int) -> np.ndarray:
    """Read a dataset.

    Args:
        file: an open file.
        name: name of the dataset.
        kinds: the `numpy.dtype.kind` that its values may have.
        ndim: number of its axes.

    Raises:
        ValueError: it has values of another kind, or another number of axes.
    """
    dataset = file[name]
    if dataset.dtype.kind not in kinds or dataset.ndim != ndim:
        raise ValueError(f"{name} has {dataset.dtype} and shape {dataset.shape}")
    return np.asarray(dataset[:])


@contextmanager
def _reading(path: Path) -> Iterator[h5py.File]:
    """Open a feature file for one read, without the locks that network file systems refuse."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError:
        raise StoreError(
            f"{path}: there is no such feature file. Run `parfocal extract` for this slide."
        ) from None
    except WRONG_CONTENT as error:
        raise StoreError(
            f"{path}: the feature file is incomplete or damaged ({error_cause(error)}). Delete it "
            "and extract again."
        ) from error


def error_cause(error: Exception) -> str:
    """Return the operating system's message of an error that HDF5 wraps in its own."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = str(error.args[0] if error.args else "").strip()
    return text.splitlines()[0] if text else type(error).__name__
