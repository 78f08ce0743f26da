"""Detect from its content which tool made a folder of features."""

from collections.abc import Callable, Sequence
from pathlib import Path

import h5py

from parfocal.features.foreign import clam, slide2vec, stamp, trident, zoommil_release
from parfocal.features.foreign.patches import ToolFolder
from parfocal.features.header import FORMAT

# Tried in this order: the first ones are recognized by names of folders.
FINDERS: tuple[Callable[[Path], Sequence[ToolFolder]], ...] = (
    slide2vec.find_folders,
    clam.find_folders,
    trident.find_folders,
    zoommil_release.find_folders,
    stamp.find_folders,
)


def detect(path: Path) -> tuple[ToolFolder, ...]:
    """Return the folders of features by another tool in a folder; empty if it made none.

    Args:
        path: a folder.
    """
    if not path.is_dir() or _is_own(path):
        return ()
    return next((tuple(found) for find in FINDERS if (found := find(path))), ())


def _is_own(path: Path) -> bool:
    """Return whether a folder has feature files of parfocal."""
    for file in sorted(path.glob("*.h5")):
        try:
            with h5py.File(file, "r", locking=False) as content:
                return bool(content.attrs.get("format") == FORMAT)
        except OSError:
            continue  # damaged: that of its slide
    return False
