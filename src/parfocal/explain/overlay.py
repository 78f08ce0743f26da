"""A prediction -> its attention as a pyramidal OME-TIFF, to lay over the slide in another viewer.

A channel is one magnification, its values raw scores, 0 where nothing was looked at. The picture
begins at the slide's corner and says how large its pixels are, so it can be scaled to the slide.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from parfocal.explain.record import PredictionRecord
from parfocal.files import whole_file

MOST_PX = 4096  # of the longer side
PIXELS_A_PATCH = 8  # of the smallest, at least, where that is not too many
SMALLEST_PX = 256  # the pyramid ends when its longer side is no more
TILE_PX = 256


def write_overlay(record: PredictionRecord, path: Path) -> None:
    """Write the attention of each magnification as a channel; whole or not at all.

    Raises:
        ValueError: nothing was looked at.
    """
    picture, scale = draw_overlay(record)
    um = record.slide.mpp * scale
    metadata = {
        "axes": "CYX",
        "Name": record.slide.id,
        "Channel": {"Name": [f"{record.magnification_at(mpp):g}x" for mpp in record.mpps]},
        **{"PhysicalSizeX": um, "PhysicalSizeXUnit": "µm"},
        **{"PhysicalSizeY": um, "PhysicalSizeYUnit": "µm"},
    }
    with whole_file(path) as part:
        _write_pyramid(part, picture, metadata)


def _write_pyramid(
    path: Path, level: Float32[np.ndarray, "c h w"], metadata: Mapping[str, object]
) -> None:
    from tifffile import TiffWriter  # noqa: PLC0415  # slow to load, and not needed to predict

    halvings = max(0, math.ceil(math.log2(max(level.shape[1:]) / SMALLEST_PX)))
    with TiffWriter(path, ome=True) as tiff:
        for step in range(halvings + 1):
            tiff.write(
                level,
                tile=(TILE_PX, TILE_PX),
                compression="zlib",
                photometric="minisblack",
                subifds=halvings if step == 0 else None,
                subfiletype=0 if step == 0 else 1,
                metadata=dict(metadata) if step == 0 else None,
            )
            level = _halved(level)


def draw_overlay(record: PredictionRecord) -> tuple[Float32[np.ndarray, "c h w"], float]:
    """Give the scores as a picture, and the level-0 pixels per pixel.

    Where patches of one magnification overlap, the highest score is shown.

    Raises:
        ValueError: nothing was looked at.
    """
    if not record.regions:
        raise ValueError(f"{record.slide.id}: nothing was looked at, so there is nothing to draw.")
    width, height = record.slide.size
    smallest = min(min(region.width, region.height) for region in record.regions)
    scale = max(1.0, smallest / PIXELS_A_PATCH, max(width, height) / MOST_PX)
    shape = len(record.mpps), math.ceil(height / scale), math.ceil(width / scale)
    picture = np.zeros(shape, dtype=np.float32)
    for region in record.regions:
        rows = slice(max(0, round(region.y / scale)), round((region.y + region.height) / scale))
        columns = slice(max(0, round(region.x / scale)), round((region.x + region.width) / scale))
        square = picture[region.step, rows, columns]
        np.maximum(square, region.score, out=square)
    return picture, scale


def _halved(level: Float32[np.ndarray, "c h w"]) -> Float32[np.ndarray, "c a b"]:
    """Shrink by two, keeping the highest score, so that a small patch stays seen."""
    odd = ((0, 0), (0, level.shape[1] % 2), (0, level.shape[2] % 2))
    whole = np.pad(level, odd, mode="edge")
    blocks = whole.reshape(len(whole), whole.shape[1] // 2, 2, whole.shape[2] // 2, 2)
    halved: Float32[np.ndarray, "c a b"] = blocks.max(axis=(2, 4))
    return halved
