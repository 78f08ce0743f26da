"""Export the scores of a prediction as a pyramidal OME-TIFF, an overlay for other viewers.

Each channel holds the raw scores of one magnification, and 0 where no patch was visited. The image
starts at the slide's top-left corner and records its pixel size, so a viewer can align it.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from parfocal.explain.record import PredictionRecord
from parfocal.files import whole_file
from parfocal.slide.listing import OVERLAY_SOFTWARE

MAX_PX = 4096  # longer side
PATCH_PX = 8  # side of the smallest patch, unless MAX_PX limits it
MIN_LEVEL_PX = 256  # the longer side of the last level of the pyramid is at most this
TILE_PX = 256


def write_overlay(record: PredictionRecord, path: Path) -> None:
    """Write the scores as a pyramidal OME-TIFF with one channel per magnification.

    The file is written completely or not at all.

    Raises:
        ValueError: the record has no regions.
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
    from tifffile import TiffWriter  # noqa: PLC0415  # slow to import, and not needed to predict

    halvings = max(0, math.ceil(math.log2(max(level.shape[1:]) / MIN_LEVEL_PX)))
    with TiffWriter(path, ome=True) as tiff:
        for step in range(halvings + 1):
            tiff.write(
                level,
                tile=(TILE_PX, TILE_PX),
                compression="zlib",
                photometric="minisblack",
                subifds=halvings if step == 0 else None,
                subfiletype=0 if step == 0 else 1,
                software=OVERLAY_SOFTWARE,
                metadata=dict(metadata) if step == 0 else None,
            )
            level = _halved(level)


def draw_overlay(record: PredictionRecord) -> tuple[Float32[np.ndarray, "c h w"], float]:
    """Return the scores as an image, and its number of level-0 pixels per pixel.

    Where patches of one magnification overlap, the highest score counts.

    Raises:
        ValueError: the record has no regions.
    """
    if not record.regions:
        raise ValueError(
            f"{record.slide.id}: the record has no regions to draw; predict the slide again."
        )
    width, height = record.slide.size
    smallest = min(min(region.width, region.height) for region in record.regions)
    scale = max(1.0, smallest / PATCH_PX, max(width, height) / MAX_PX)
    shape = len(record.mpps), math.ceil(height / scale), math.ceil(width / scale)
    picture = np.zeros(shape, dtype=np.float32)
    for region in record.regions:
        rows = slice(max(0, round(region.y / scale)), round((region.y + region.height) / scale))
        columns = slice(max(0, round(region.x / scale)), round((region.x + region.width) / scale))
        square = picture[region.step, rows, columns]
        np.maximum(square, region.score, out=square)
    return picture, scale


def _halved(level: Float32[np.ndarray, "c h w"]) -> Float32[np.ndarray, "c a b"]:
    """Halve the resolution, keeping the highest score, so that a small patch stays visible."""
    odd = ((0, 0), (0, level.shape[1] % 2), (0, level.shape[2] % 2))
    padded = np.pad(level, odd, mode="edge")
    blocks = padded.reshape(len(padded), padded.shape[1] // 2, 2, padded.shape[2] // 2, 2)
    halved: Float32[np.ndarray, "c a b"] = blocks.max(axis=(2, 4))
    return halved
