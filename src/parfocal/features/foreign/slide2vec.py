"""Features by slide2vec: `tile_embeddings/<slide>.pt` (or `.npz`) with `<slide>.meta.json`.

The places of the tiles are in `tiles/<slide>.coordinates.npz`, in level-0 pixels.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.features.errors import StoreError
from parfocal.features.foreign.patches import (
    ScanFacts,
    ToolPatches,
    check_counts,
    empty_error,
    number,
    require,
    size,
    text,
)
from parfocal.features.foreign.tensors import NpzRows, TorchRows, read_arrays

TOOL = "slide2vec"
FEATURES = "tile_embeddings"
META = ".meta.json"


@dataclass(frozen=True)
class Slide2vecFolder:
    """The features of a cohort by slide2vec.

    Args:
        path: folder `tile_embeddings`.
    """

    path: Path
    tool: str = TOOL

    @cached_property
    def files(self) -> dict[str, Path]:
        """The file with the features of each slide, by the name of the slide.

        A slide without tiles has its description only.
        """
        found = {path.name.removesuffix(META): path for path in sorted(self.path.glob(f"*{META}"))}
        for suffix in (".npz", ".pt"):
            found.update({path.stem: path for path in sorted(self.path.glob(f"*{suffix}"))})
        return found

    def read(self, name: str, scan: ScanFacts | None) -> tuple[ToolPatches, ...]:
        """Return the patches of a slide.

        Raises:
            StoreError: a file is missing, damaged or not as slide2vec writes it.
        """
        path, meta = self.files[name], self._meta(self.path / f"{name}{META}")
        if path.name.endswith(META):
            raise empty_error(path, tool=TOOL)
        rows = (NpzRows if path.suffix == ".npz" else TorchRows)(path, tool=TOOL)
        tiles = self.path.parent / "tiles"
        arrays = read_arrays(tiles / f"{name}.coordinates.npz", "x", "y", tool=TOOL)
        corners = np.stack([arrays["x"], arrays["y"]], axis=1).astype(float)
        check_counts(path, corners, rows.shape, tool=TOOL)
        tiling_file = tiles / f"{name}.coordinates{META}"
        tiling = self._meta(tiling_file) if tiling_file.exists() else {}
        width, height = (tiling.get("slide", {}).get("dimensions") or (None, None))[:2]
        facts = {**tiling.get("tiling", {}), **meta}
        patch_size = require(_fact(facts, "requested_tile_size_px"), path, "tile size", tool=TOOL)
        return (
            ToolPatches(
                rows=rows,
                corners=corners,
                side=require(_fact(facts, "tile_size_lv0"), path, "tile_size_lv0", tool=TOOL),
                unit="px",
                patch_size=round(patch_size),
                mpp=require(_fact(facts, "requested_spacing_um"), path, "spacing", tool=TOOL),
                encoder=text(meta.get("encoder_name")),
                overlap=(_fact(facts, "overlap") or 0.0) * patch_size,
                slide_size=size(width, height),
            ),
        )

    def _meta(self, path: Path) -> dict[str, Any]:
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path}: the description of the features is missing or damaged "
                f"({type(error).__name__}). Extract this slide again with slide2vec."
            ) from None
        return found if isinstance(found, dict) else {}


def find_folders(path: Path) -> tuple[Slide2vecFolder, ...]:
    """Return the folder of features in a folder that slide2vec wrote; empty if it did not.

    Args:
        path: the output folder of a run, or `tile_embeddings` in it.
    """
    for folder in (path, path / FEATURES):
        if folder.name == FEATURES and any(folder.glob(f"*{META}")):
            return (Slide2vecFolder(folder),)
    return ()


def _fact(facts: dict[str, Any], name: str) -> float | None:
    return number(facts.get(name))
