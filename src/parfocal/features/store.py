"""Read and check feature files: one HDF5 file per slide; docs/formats.md has the layout."""

from collections.abc import Sequence
from functools import cached_property
from math import ceil
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Int64

from parfocal.bag import StoredBag
from parfocal.encoders.per_magnification import per_magnification
from parfocal.encoders.spec import UNKNOWN_WEIGHTS, EncoderSpec
from parfocal.features.errors import MixedFeaturesError
from parfocal.features.hdf5 import reading
from parfocal.features.header import SlideSettings, check_format, group_names, read_header
from parfocal.features.rows import Hdf5Rows, StoredFeatures
from parfocal.features.selection import Selection, SelectionError, select_steps
from parfocal.grid import GridError
from parfocal.slide.given_tissue import tissue_fingerprint
from parfocal.slide.slide import Slide


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
        with reading(path) as file:
            self.format_version = check_format(path, file.attrs)
            groups = group_names(file.attrs["magnifications"].tolist())
            exists = [_read_array(file, f"{group}/valid", "b", 1) for group in groups]
            self._names = [f"{group}/features" for group in groups]
            has_shares = any("tissue" in file[group] for group in groups)
            shares = [_read_array(file, f"{g}/tissue", "f", 2) for g in groups if has_shares]
            roots = _read_array(file, "roots", "iu", 2).astype(np.int64)
            group_attributes = [file[group].attrs for group in groups]
            self.header = read_header(file.attrs, group_attributes, roots, exists, shares)
            self._selections: dict[tuple[float, ...], Selection] = {}
            self._check_grid()
            shapes = [self._check_features(file, step) for step in range(len(groups))]
        self._rows = [
            Hdf5Rows(path, name, shape) for name, shape in zip(self._names, shapes, strict=True)
        ]

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
        expected = (self.header.grid.counts[step], self.header.encoders[step].dim)
        if dataset.dtype.kind != "f" or dataset.shape != expected:
            raise ValueError(
                f"{self._names[step]} has {dataset.dtype} and shape {dataset.shape}, not {expected}"
            )
        return torch.Size(expected)

    @property
    def placed(self) -> bool:
        """Whether the places of the patches on the slide are known."""
        return True

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """Encoder of the features of each stored magnification, lowest first."""
        return self.header.encoders

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

    def rows(self, step: int) -> Hdf5Rows:
        """Return the reader of all rows of one stored magnification.

        Args:
            step: index of the magnification, 0 for the lowest stored.
        """
        return self._rows[step]

    def step(self, magnification: float) -> int:
        """Return the index of a magnification, 0 for the lowest stored.

        Raises:
            MixedFeaturesError: the magnification is not stored.
        """
        names = group_names(self.magnifications)
        name = group_names([magnification])[0]
        if name not in names:
            raise MixedFeaturesError(
                f"{self.path}: the features are of {', '.join(names)}, and not of {name}. "
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
        return self.select(magnifications).bag(self.tables(magnifications, device=device))

    def tables(
        self, magnifications: Sequence[float], *, device: torch.device | str = "cpu"
    ) -> tuple[StoredFeatures, ...]:
        """Return the features of the patches of `select`, which are read when indexed.

        Args:
            magnifications: stored magnifications to use, lowest first.
            device: device of the features.

        Raises:
            MixedFeaturesError: a magnification or a patch is not stored.
        """
        steps = [self.step(magnification) for magnification in magnifications]
        return self._levels(steps, self.select(magnifications).rows, torch.device(device))

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
        encoder: EncoderSpec | Sequence[EncoderSpec],
        settings: SlideSettings,
        *,
        slide: Slide | None = None,
        tissue: Path | None = None,
    ) -> None:
        """Check that the features are by an encoder and of the patches expected.

        Args:
            encoder: expected encoder, one for all magnifications of `settings` or one for each,
                lowest first: the name, weights and preparation of pixels must be equal.
            settings: expected patches: all settings must be equal, except that more magnifications
                may be stored.
            slide: expected slide, at its present mpp; None to skip this check.
            tissue: expected tissue file; None for tissue that was found.

        Raises:
            MixedFeaturesError: something differs.
        """
        stored = self.header.settings
        self._check_encoders(per_magnification(encoder, len(settings.magnifications)), settings)
        self._check_equal("patch size", stored.patch_size, settings.patch_size)
        self._check_equal("slide.tissue_method", stored.tissue_method, settings.tissue_method)
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

    def _check_encoders(self, expected: Sequence[EncoderSpec], settings: SlideSettings) -> None:
        encoders = dict(zip(group_names(self.magnifications), self.encoders, strict=True))
        several = len({each.name for each in (*expected, *self.encoders)}) > 1
        for name, encoder in zip(group_names(settings.magnifications), expected, strict=True):
            stored = encoders.get(name, encoder)  # a missing magnification is refused by `select`
            if encoder.weights_hash == UNKNOWN_WEIGHTS and stored.dim == encoder.dim:
                self._check_equal("encoder", stored.name, encoder.name)
                continue  # of features by another tool, which stores no more than the name
            where = f" at {name}" if several and len(encoders) > 1 else ""
            texts = _encoder_text(stored), _encoder_text(encoder)
            self._check_equal("encoder", *texts, where=where)
            preparations = stored.preparation, encoder.preparation
            self._check_equal("preparation of pixels", *preparations, where=where)

    def _check_equal(self, name: str, stored: object, expected: object, *, where: str = "") -> None:
        if stored != expected:
            raise MixedFeaturesError(
                f"{self.path}: the features{where} were made with {name} {stored}, and now it is "
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
                self._rows[step],
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


def _encoder_text(encoder: EncoderSpec) -> str:
    return f"{encoder.name} (weights {encoder.weights_hash})"


def _tissue_text(fingerprint: str) -> str:
    return f"from a file ({fingerprint[:8]})" if fingerprint else "found on the slide"


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
