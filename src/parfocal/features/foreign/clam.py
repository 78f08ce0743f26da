"""Features by CLAM: `h5_files/<slide>.h5` or `pt_files/<slide>.pt`, with `patches/<slide>.h5`.

The files of features do not say where the patches lie: the geometry is in the attributes of
`coords` in the folder `patches`, which CLAM writes beside or above the features. The size of a
patch is in pixels of the level that it was read from; the resolution of that level is not stored,
so it is known only if the slide is available. The encoder is not stored either.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from parfocal.features.errors import StoreError
from parfocal.features.foreign.patches import (
    ScanFacts,
    ToolPatches,
    check_counts,
    number,
    require,
    size,
)
from parfocal.features.foreign.tensors import TorchRows
from parfocal.features.hdf5 import reading
from parfocal.features.rows import Hdf5Rows, RowReader

TOOL = "CLAM"
KINDS = {"h5_files": "*.h5", "pt_files": "*.pt"}


@dataclass(frozen=True)
class ClamFolder:
    """The features of a cohort by CLAM.

    Args:
        path: folder `h5_files` or `pt_files`.
        patches: folder `patches` with the coordinates; None if there is none.
    """

    path: Path
    patches: Path | None
    tool: str = TOOL

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file with the features of each slide, by the name of the slide."""
        return {path.stem: path for path in sorted(self.path.glob(KINDS[self.path.name]))}

    def read(self, name: str, scan: ScanFacts | None) -> tuple[ToolPatches, ...]:
        """Return the patches of a slide.

        Raises:
            StoreError: a file is missing, damaged or not as CLAM writes it.
        """
        path = self.files[name]
        rows, own_coords = self._features(path)
        geometry_file = self._geometry_file(path, name)
        with reading(geometry_file, tool=TOOL) as file:
            if "coords" not in file:
                raise StoreError(
                    f"{geometry_file}: the file has no coords. Make the patches of this slide "
                    "again with CLAM's create_patches_fp.py."
                )
            coords = np.asarray(file["coords"][:], dtype=float).reshape(-1, 2)
            geometry = dict(file["coords"].attrs)
        check_counts(path, coords, rows.shape, tool=TOOL)
        if own_coords is not None and not np.array_equal(own_coords, coords):
            raise StoreError(
                f"{path}: the coordinates are not those of {geometry_file}, so the features are of "
                "other patches. Extract the features of this slide again with CLAM."
            )
        patch_size = require(
            number(geometry.get("patch_size")), geometry_file, "patch_size", tool=TOOL
        )
        shrunk = number(geometry.get("custom_downsample")) or 1.0
        level = require(number(geometry.get("downsample")), geometry_file, "downsample", tool=TOOL)
        level_size = np.asarray(geometry.get("level_dim", (None, None))).ravel()
        stored_size = size(*level_size) if len(level_size) == 2 else None
        return (
            ToolPatches(
                rows=rows,
                corners=coords,
                side=patch_size * level * shrunk,
                unit="px",
                patch_size=round(patch_size),
                mpp=None if scan is None else scan.mpp * level * shrunk,
                encoder="",
                slide_size=None
                if stored_size is None
                else (round(stored_size[0] * level), round(stored_size[1] * level)),
            ),
        )

    def _features(self, path: Path) -> tuple[RowReader, Float[np.ndarray, "n 2"] | None]:
        """Return the rows of features, and their coordinates if the file has them."""
        if path.suffix == ".pt":
            return TorchRows(path, tool=TOOL), None
        with reading(path, tool=TOOL) as file:
            shape = file["features"].shape
            coords = None
            if "coords" in file:
                coords = np.asarray(file["coords"][:], dtype=float).reshape(-1, 2)
        return Hdf5Rows(path, "features", (*shape, 0, 0)[:2], tool=TOOL), coords

    def _geometry_file(self, path: Path, name: str) -> Path:
        """Return the file with the coordinates of a slide."""
        if self.patches is not None and (self.patches / f"{name}.h5").is_file():
            return self.patches / f"{name}.h5"
        raise StoreError(
            f"{path}: there is no patches/{name}.h5 beside or above {self.path.name}, and CLAM "
            "stores only there where the patches lie and how large they are. Copy or link CLAM's "
            f"folder patches to {self.path.parent / 'patches'}."
        )


def find_folders(path: Path) -> tuple[ClamFolder, ...]:
    """Return the folder of features in a folder that CLAM wrote; empty if it did not.

    Args:
        path: the folder with `h5_files` and `pt_files`, or one of them.
    """
    if path.name in KINDS:
        candidates = [path]
    else:
        candidates = [path / kind for kind in KINDS if (path / kind).is_dir()]
    found = [each for each in candidates if any(each.glob(KINDS[each.name]))]
    if not found:
        return ()
    above = found[0].resolve().parents
    places = [place / "patches" for place in (*above[:2], above[0] / "RESULTS")]
    return (ClamFolder(found[0], next((each for each in places if each.is_dir()), None)),)
