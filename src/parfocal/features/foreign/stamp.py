"""Features by STAMP: `<slide>.h5` with `feats` and `coords` in µm.

Positions in pixels need the µm per pixel of the slide, so they are known only if the slide is
available; patches nest without it.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float

from parfocal.features.errors import StoreError
from parfocal.features.foreign.patches import (
    ScanFacts,
    ToolPatches,
    check_counts,
    number,
    require,
    text,
)
from parfocal.features.hdf5 import reading
from parfocal.features.rows import Hdf5Rows

TOOL = "STAMP"
# Of files without a unit, by STAMP 1: patches of 256 µm and 224 px, with coordinates in pixels.
OLD_STRIDE_PX, OLD_SIDE_UM = 224.0, 256.0
DEFAULT_SIZE_PX = 224
CODE_HASH = re.compile(r"-[0-9a-f]{8,}$")


@dataclass(frozen=True)
class StampFolder:
    """A folder of feature files by STAMP, in subfolders too.

    Args:
        path: the folder.
    """

    path: Path
    tool: str = TOOL

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file with the features of each slide, by the name of the slide."""
        return {path.stem: path for path in sorted(self.path.rglob("*.h5"))}

    def read(self, name: str, scan: ScanFacts | None) -> tuple[ToolPatches, ...]:
        """Return the patches of a slide.

        Raises:
            StoreError: the file is missing, damaged or not of patches.
        """
        path = self.files[name]
        with reading(path, tool=TOOL) as file:
            attributes, shape = dict(file.attrs), file["feats"].shape
            kind = text(attributes.get("feat_type")) or "tile"
            if kind != "tile":
                raise StoreError(
                    f"{path}: the features are of a {kind}, and parfocal needs those of its tiles. "
                    "Give the folder of STAMP's `preprocess`."
                )
            if "coords" not in file:
                raise StoreError(
                    f"{path}: the file has feats but no coords, so it is unknown where the tiles "
                    "lie. Extract this slide again with STAMP."
                )
            coords = np.asarray(file["coords"][:], dtype=float).reshape(-1, 2)
        check_counts(path, coords, shape, tool=TOOL)
        side, corners = _micrometers(path, attributes, coords)
        patch_size = round(number(attributes.get("tile_size_px")) or DEFAULT_SIZE_PX)
        scale = 1.0 if scan is None else 1 / scan.mpp
        return (
            ToolPatches(
                rows=Hdf5Rows(path, "feats", shape, tool=TOOL),
                corners=corners * scale,
                side=side * scale,
                unit="um" if scan is None else "px",
                patch_size=patch_size,
                mpp=side / patch_size,
                encoder=CODE_HASH.sub("", text(attributes.get("extractor"))),
            ),
        )


def find_folders(path: Path) -> tuple[StampFolder, ...]:
    """Return a folder of features if STAMP wrote it, else none.

    Args:
        path: the folder that was given.
    """
    for file in sorted(path.rglob("*.h5")):
        try:
            with h5py.File(file, "r", locking=False) as content:
                return (StampFolder(path),) if "feats" in content else ()
        except OSError:
            continue  # damaged: that of its slide
    return ()


def _micrometers(
    path: Path, attributes: dict[str, Any], coords: Float[np.ndarray, "n 2"]
) -> tuple[float, Float[np.ndarray, "n 2"]]:
    """Return the side of a tile and the corners in µm."""
    side = number(attributes.get("tile_size_um"))
    if side is None and text(attributes.get("unit")) == "um":
        side = number(attributes.get("tile_size"))
    if side is not None:
        return require(side, path, "tile_size_um", tool=TOOL), coords
    steps = np.diff(np.unique(coords[:, 0]))
    if len(steps) and np.isclose(steps, np.rint(steps / OLD_STRIDE_PX) * OLD_STRIDE_PX).all():
        return OLD_SIDE_UM, coords * (OLD_SIDE_UM / OLD_STRIDE_PX)
    raise StoreError(
        f"{path}: tile_size_um is missing, and the coordinates do not have the step of "
        f"{OLD_STRIDE_PX:g} px of older files, so their unit is unknown. Extract this slide again "
        "with STAMP."
    )
