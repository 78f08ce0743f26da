"""Features by TRIDENT: `<job>/<mag>x_<px>px_<overlap>px_overlap/features_<encoder>/<slide>.h5`.

The file of a slide has the datasets `features` (N, D), with the attribute `encoder`, and `coords`
(N, 2) in level-0 pixels, with the geometry as attributes. Magnifications are nominal. The grid
begins at (0, 0), so that grids of whole ratios nest if patches do not overlap.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from parfocal.features.errors import StoreError
from parfocal.features.foreign.patches import (
    ScanFacts,
    ToolPatches,
    check_counts,
    number,
    require,
    size,
    text,
)
from parfocal.features.hdf5 import reading
from parfocal.features.rows import Hdf5Rows

TOOL = "TRIDENT"
GRID_FOLDER = re.compile(r"^(?P<mag>[0-9.]+)x_(?P<px>\d+)px_(?P<overlap>\d+)px_overlap$")
PREFIX, SLIDE_PREFIX = "features_", "slide_features_"
GEOMETRY = ("patch_size", "patch_size_level0", "target_magnification")


@dataclass(frozen=True)
class TridentFolder:
    """A folder `features_<encoder>`.

    Args:
        path: the folder.
    """

    path: Path
    tool: str = TOOL

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file with the features of each slide, by the name of the slide."""
        return {path.stem: path for path in sorted(self.path.glob("*.h5"))}

    def read(self, name: str, scan: ScanFacts | None) -> tuple[ToolPatches, ...]:
        """Return the patches of a slide.

        Raises:
            StoreError: the file is missing, damaged or not as TRIDENT writes it.
        """
        path = self.files[name]
        with reading(path, tool=TOOL) as file:
            shape, attributes = file["features"].shape, dict(file["features"].attrs)
            if "coords" not in file:
                raise_missing_coords(path)
            coords = np.asarray(file["coords"][:], dtype=float).reshape(-1, 2)
            geometry = dict(file["coords"].attrs)
        check_counts(path, coords, shape, tool=TOOL)
        patch_size = require(number(geometry.get("patch_size")), path, "patch_size", tool=TOOL)
        target, scanned = (
            number(geometry.get(f"{key}_magnification")) for key in ("target", "level0")
        )
        side = number(geometry.get("patch_size_level0"))
        if side is None and target and scanned:
            side = patch_size * scanned / target
        encoder = text(attributes.get("encoder")) or self.path.name.removeprefix(PREFIX)
        return (
            ToolPatches(
                rows=Hdf5Rows(path, "features", shape, tool=TOOL),
                corners=coords,
                side=require(side, path, "patch_size_level0", tool=TOOL),
                unit="px",
                patch_size=round(patch_size),
                mpp=10 / require(target, path, "target_magnification", tool=TOOL),
                encoder=encoder,
                overlap=number(geometry.get("overlap")) or 0.0,
                slide_size=size(geometry.get("level0_width"), geometry.get("level0_height")),
            ),
        )


def raise_missing_coords(path: Path) -> None:
    """Raise the error for a file without coordinates.

    Raises:
        StoreError: always.
    """
    raise StoreError(
        f"{path}: the file has features but no coords, so it is unknown where the patches lie. "
        f"Extract this slide again with {TOOL}."
    )


def find_folders(path: Path) -> tuple[TridentFolder, ...]:
    """Return the folders of features in a job folder, a grid folder or a folder of features.

    Args:
        path: the folder that was given.

    Returns:
        The folders, lowest magnification first; empty if TRIDENT did not write this.

    Raises:
        StoreError: the features are of whole slides, or there are only places of patches.
    """
    if path.name.startswith(SLIDE_PREFIX):
        raise StoreError(
            f"{path}: the features are of whole slides, and parfocal needs those of their patches. "
            f"Give the folder {PREFIX}<encoder> beside it."
        )
    if GRID_FOLDER.match(path.name):
        return _in_grid_folder(path)
    grids = [each for each in path.iterdir() if each.is_dir() and GRID_FOLDER.match(each.name)]
    if grids:
        ordered = sorted(grids, key=lambda each: (magnification_of(each), each.name))
        return tuple(folder for grid in ordered for folder in _in_grid_folder(grid))
    return (TridentFolder(path),) if _is_features(path) else ()


def magnification_of(grid: Path) -> float:
    """Return the magnification in the name of a grid folder.

    >>> magnification_of(Path("2.5x_256px_0px_overlap"))
    2.5
    """
    match = GRID_FOLDER.match(grid.name)
    return 0.0 if match is None else (number(match["mag"]) or 0.0)


def _in_grid_folder(path: Path) -> tuple[TridentFolder, ...]:
    folders = sorted(each for each in path.glob(f"{PREFIX}*") if each.is_dir())
    return tuple(TridentFolder(each) for each in folders if any(each.glob("*.h5")))


def _is_features(path: Path) -> bool:
    """Return whether a folder has files with features, coords and TRIDENT's geometry.

    Raises:
        StoreError: the files have no features.
    """
    named = path.name.startswith(PREFIX) and GRID_FOLDER.match(path.resolve().parent.name)
    for file in sorted(path.glob("*.h5")):
        try:
            with h5py.File(file, "r", locking=False) as content:
                if set(content) == {"coords"}:
                    raise StoreError(
                        f"{path}: the files have the places of patches, and no features. Give the "
                        f"folder {PREFIX}<encoder> beside it (TRIDENT), or the one with h5_files "
                        "(CLAM)."
                    )
                if "features" not in content:
                    return False
                coords = content.get("coords")
                return bool(named) or (
                    coords is not None and all(key in coords.attrs for key in GEOMETRY[:2])
                )
        except OSError:
            continue  # damaged: that of its slide
    return False
