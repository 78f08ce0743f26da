"""Write features in TRIDENT's layout, which MIL-Lab, Patho-Bench, torchmil and others read.

<out>/<mag>x_<px>px_0px_overlap/patches/<slide>_patches.h5     coords, with the geometry
<out>/<mag>x_<px>px_0px_overlap/features_<encoder>/<slide>.h5  features, and the same coords
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int64

from parfocal.encoders.catalog import find_card
from parfocal.encoders.spec import EncoderSpec
from parfocal.features.errors import MixedFeaturesError, UnwritableError
from parfocal.features.foreign.nominal import nominal_magnification
from parfocal.features.foreign.trident import PREFIX
from parfocal.features.hdf5 import error_cause
from parfocal.features.store import FeatureFile
from parfocal.files import part_path, sync

WORK_FOLDER = ".parfocal-extract"  # feature files of parfocal until they are rewritten
BLOCK_ROWS = 1024
TRIDENT_NAMES = {
    "uni": "uni_v1",
    "uni2-h": "uni_v2",
    "conch": "conch_v1",
    "conch-v1.5": "conch_v15",
    "h-optimus-0": "hoptimus0",
    "h-optimus-1": "hoptimus1",
    "prov-gigapath": "gigapath",
    "phikon-v2": "phikon_v2",
    "hibou-l": "hibou_l",
    "midnight-12k": "midnight12k",
}


class TridentLayout:
    """Rewrites feature files of parfocal in TRIDENT's layout.

    Args:
        out: job folder.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self.folder = out / WORK_FOLDER

    def is_done(
        self,
        slide_id: str,
        encoders: tuple[EncoderSpec, ...],
        magnifications: tuple[float, ...],
        patch_size: int,
    ) -> bool:
        """Return whether a slide has its files at all magnifications.

        Raises:
            MixedFeaturesError: a file has other features.
        """
        paths = [
            self._features_path(slide_id, encoder, magnification, patch_size)
            for encoder, magnification in zip(encoders, magnifications, strict=True)
        ]
        for path, encoder in zip(paths, encoders, strict=True):
            if path.exists():
                _check_dim(path, encoder)
        return all(path.exists() for path in paths)

    def finish(self, path: Path, slide_id: str) -> None:
        """Rewrite a feature file of parfocal, and delete it.

        Args:
            path: the feature file.
            slide_id: name of the slide.

        Raises:
            UnwritableError: a file cannot be written.
        """
        file = FeatureFile(path)
        for step, magnification in enumerate(file.magnifications):
            self._write(file, step, magnification, slide_id)
        path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write(self, file: FeatureFile, step: int, magnification: float, slide_id: str) -> None:
        """Write the two files of one magnification; the one with the features comes last."""
        encoder = file.encoders[step]
        rows = np.flatnonzero(file.header.grid.valid(step))
        features_path = self._features_path(slide_id, encoder, magnification, file.patch_size)
        grid_folder = features_path.parent.parent
        coords = file.coords(step)[rows]
        attributes = geometry(file, step, magnification, slide_id)
        with _creating(grid_folder / "patches" / f"{slide_id}_patches.h5") as (opened, folder):
            _write_coords(opened, coords, {**attributes, "savetodir": str(folder)})
        with _creating(features_path) as (opened, folder):
            _write_features(opened, file, step, rows, encoder_name=_trident_name(encoder.name))
            opened["features"].attrs.update({"name": slide_id, "savetodir": str(folder)})
            _write_coords(opened, coords, {**attributes, "savetodir": str(folder)})

    def _features_path(
        self, slide_id: str, encoder: EncoderSpec, magnification: float, patch_size: int
    ) -> Path:
        grid = f"{magnification:g}x_{patch_size}px_0px_overlap"
        name = _trident_name(encoder.name).replace(":", "-").replace("/", "-")
        return self._out / grid / f"{PREFIX}{name}" / f"{slide_id}.h5"


def geometry(file: FeatureFile, step: int, magnification: float, slide_id: str) -> dict[str, Any]:
    """Return the attributes of `coords`.

    `patch_size_level0` is `patch_size * level0_magnification // target_magnification`, as TRIDENT
    computes it. The magnification of the scan is the nominal one only where that gives the true
    size of the patches, and else follows from the mpp of the scan.
    """
    grid = file.header.grid
    side, width, height = round(grid.side_px(step)), *grid.slide_size
    scanned: float = nominal_magnification(grid.slide_mpp)
    if grid.patch_size * scanned // magnification != side:
        scanned = side * magnification / grid.patch_size
    return {
        "patch_size": grid.patch_size,
        "patch_size_level0": side,
        "level0_magnification": _whole(scanned),
        "target_magnification": _whole(magnification),
        "overlap": 0,
        "name": slide_id,
        "level0_width": width,
        "level0_height": height,
    }


def _write_features(
    opened: h5py.File,
    file: FeatureFile,
    step: int,
    rows: Int64[np.ndarray, " n"],
    *,
    encoder_name: str,
) -> None:
    """Write features as 32-bit numbers, one row in a chunk, as TRIDENT does."""
    reader, dim = file.rows(step), file.encoders[step].dim
    dataset = opened.create_dataset(
        "features", (len(rows), dim), np.float32, chunks=(1, dim), maxshape=(None, dim)
    )
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        dataset[start : start + len(block)] = reader.read(block).astype(np.float32)
    dataset.attrs["encoder"] = encoder_name


def _write_coords(
    opened: h5py.File, coords: Int64[np.ndarray, "n 2"], attributes: dict[str, Any]
) -> None:
    dataset = opened.create_dataset(
        "coords", data=coords.astype(np.int64), chunks=(1, 2), maxshape=(None, 2)
    )
    dataset.attrs.update(attributes)


@contextmanager
def _creating(path: Path) -> Iterator[tuple[h5py.File, Path]]:
    """Write a file that gets its name only when it is complete; also yield its folder."""
    part = part_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(part, "w", locking=False) as opened:
            yield opened, path.parent
        sync(part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # HDF5 raises either
        raise UnwritableError(
            f"{path}: the file could not be written ({error_cause(error)}). Free space or choose "
            "another folder, then run again; finished slides are skipped."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _check_dim(path: Path, encoder: EncoderSpec) -> None:
    with h5py.File(path, "r", locking=False) as file:
        found = file["features"].shape[1]
    if found != encoder.dim:
        raise MixedFeaturesError(
            f"{path}: the file has {found} features per patch, and {encoder.name} gives "
            f"{encoder.dim}; the two do not mix. Extract into another folder."
        )


def _trident_name(name: str) -> str:
    card = find_card(name)
    return name if card is None else TRIDENT_NAMES.get(card.id, card.id)


def _whole(number: float) -> int | float:
    return int(number) if float(number).is_integer() else float(number)
