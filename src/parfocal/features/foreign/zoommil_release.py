"""Features by the authors of ZoomMIL: one HDF5 file per slide, `<m>x_patches` and `<m>x_coords`.

Magnifications are named as Python prints them (`10.0x`). Coordinates are chains of digits: row and
column of the patch of the lowest magnification, then row and column of the child inside its parent,
and so on. The white margin that was added to the slide is not stored, so the places on the slide
are unknown: models can be trained on these features, and nothing can be drawn.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Int64

from parfocal.features.foreign.patches import ScanFacts, ToolPatches, check_counts
from parfocal.features.hdf5 import reading
from parfocal.features.rows import Hdf5Rows

TOOL = "ZoomMIL"
PATCHES = re.compile(r"^(?P<mag>[0-9.]+)x_patches$")
PATCH_SIZE = 256  # of the published preprocessing
ENCODERS = {1024: "resnet50"}  # cut after its third block, by the number of features


@dataclass(frozen=True)
class ZoomMilFolder:
    """A folder of files of the ZoomMIL release.

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
        """Return the patches of a slide at each magnification, lowest first.

        Raises:
            StoreError: the file is missing or damaged.
        """
        path, levels = self.files[name], []
        with reading(path, tool=TOOL) as file:
            names = sorted((name for name in file if PATCHES.match(name)), key=magnification_of)
            magnifications = [magnification_of(each) for each in names]
            ratios = [round(high / low) for low, high in pairwise(magnifications)]
            for step, dataset in enumerate(names):
                shape, chains = file[dataset].shape, file[dataset.replace("patches", "coords")][:]
                cells = follow_chains(np.asarray(chains), ratios[:step])
                check_counts(path, cells.astype(float), shape, tool=TOOL)
                side = PATCH_SIZE * magnifications[-1] / magnifications[step]
                levels.append(
                    ToolPatches(
                        rows=Hdf5Rows(path, dataset, shape, tool=TOOL),
                        corners=cells[:, ::-1] * side,
                        side=side,
                        unit="unknown",
                        patch_size=PATCH_SIZE,
                        mpp=10 / magnifications[step],
                        encoder=ENCODERS.get(shape[1], ""),
                    )
                )
        return tuple(levels)


def follow_chains(chains: Int64[np.ndarray, "n c"], ratios: list[int]) -> Int64[np.ndarray, "n 2"]:
    """Return the (row, column) of patches from chains of row and column inside the parent.

    >>> follow_chains(np.array([[3, 1, 1, 0]]), [2]).tolist()
    [[7, 2]]

    Args:
        chains: (row, column) of the patch of the lowest magnification, then of each child in its
            parent.
        ratios: number of children along a side, for each magnification above the lowest.

    Raises:
        ValueError: a chain has another length.
    """
    if chains.ndim != 2 or chains.shape[1] != 2 * (len(ratios) + 1):
        raise ValueError(f"coordinates of shape {chains.shape}, not (n, {2 * (len(ratios) + 1)})")
    cells = chains[:, :2].astype(np.int64)
    for step, ratio in enumerate(ratios, start=1):
        cells = cells * ratio + chains[:, 2 * step : 2 * step + 2].astype(np.int64)
    return cells


def magnification_of(dataset: str) -> float:
    """Return the magnification in the name of a dataset.

    >>> magnification_of("2.5x_patches")
    2.5
    """
    match = PATCHES.match(dataset)
    return 0.0 if match is None else float(match["mag"])


def find_folders(path: Path) -> tuple[ZoomMilFolder, ...]:
    """Return a folder of features if it is of the ZoomMIL release, else none.

    Args:
        path: the folder that was given.
    """
    for file in sorted(path.glob("*.h5")):
        try:
            with h5py.File(file, "r", locking=False) as content:
                found = any(PATCHES.match(name) for name in content)
                return (ZoomMilFolder(path),) if found else ()
        except OSError:
            continue  # damaged: that of its slide
    return ()
