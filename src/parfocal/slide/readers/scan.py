"""Scan: the interface of a file reader, and the description of a file.

A reader returns stored pixels only. Everything about resolution is decided in `slide.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

Region = tuple[int, int, int, int]  # left, top, width and height in pixels of a level

AXIS_TOLERANCE = 0.01  # pixel sides that differ by more are reported as averaged
SQUARE_TOLERANCE = 0.02  # pixel sides that differ by more are refused


@dataclass(frozen=True)
class Level:
    """A resolution stored in a file.

    Args:
        width: width in pixels of this level.
        height: height in pixels of this level.
        downsample: level-0 pixels per pixel of this level.
    """

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class Metadata:
    """Metadata recorded in a file, not validated.

    Args:
        vendor: name of the format, as its reader calls it.
        mpp: microns per level-0 pixel; None if not recorded.
        mpp_source: name of the field that records `mpp`.
        objective_power: nominal magnification of the objective, as recorded; None if not recorded.
        sides: width and height of a pixel in microns; None unless both are recorded.
        notes: sentences on what is unusual about the file.
    """

    vendor: str
    mpp: float | None = None
    mpp_source: str = ""
    objective_power: str | None = None
    sides: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


@runtime_checkable
class Scan(Protocol):
    """An open file. It may be read from several threads, and after a fork."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The stored levels, sharpest first."""

    @property
    def metadata(self) -> Metadata:
        """The metadata recorded in the file."""

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored RGB pixels of a region that lies inside a level.

        Args:
            level: index of the level.
            x: left edge, in pixels of the level.
            y: top edge, in pixels of the level.
            width: width in pixels of the level.
            height: height in pixels of the level.

        Returns:
            Pixels in 0..255, which the caller must not modify.

        Raises:
            SlideError: the file is damaged inside the region.
        """

    def close(self) -> None:
        """Close the file."""


@runtime_checkable
class ReadsAhead(Protocol):
    """A scan that fetches regions which will be read soon."""

    @property
    def reads_ahead(self) -> bool:
        """Whether that is of any use."""

    def read_ahead(self, level: int, regions: Sequence[Region]) -> int:
        """Start fetching regions, as far as the memory allows.

        Args:
            level: index of the level.
            regions: left and top edge, width and height of each, in pixels of the level.

        Returns:
            How many of the regions, from the first, are fetched or need not be.
        """

    def cancel(self) -> None:
        """Let reads that wait in other threads fail at once."""


def compute_levels(sizes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Compute the downsample of each stored level.

    Writers shrink by a whole number and drop or round up the remainder, so the downsample of
    2221 x 1783 below 4443 x 3567 is 2, not 2.0005. A size that no whole number explains has the
    mean of the two quotients.

    Args:
        sizes: width and height of each level, sharpest first.

    >>> [level.downsample for level in compute_levels([(4443, 3567), (2221, 1783), (1000, 800)])]
    [1.0, 2.0, 4.450875]
    """
    (full_width, full_height), levels = sizes[0], []
    for width, height in sizes:
        downsample = (full_width / width + full_height / height) / 2
        factor = max(1, round(downsample))
        if all(
            floor(full / factor) <= size <= ceil(full / factor)
            for full, size in ((full_width, width), (full_height, height))
        ):
            downsample = float(factor)
        levels.append(Level(width, height, downsample))
    return tuple(levels)


def mean_mpp(x: float | None, y: float | None, *, source: str) -> tuple[float | None, str]:
    """Average the width and height of a pixel.

    Args:
        x: width of a pixel in microns; None if not recorded.
        y: height of a pixel in microns; None if not recorded.
        source: name of the field that records them.

    Returns:
        The mean, None if neither is recorded; and the source, which mentions the two values if they
        differ by more than 1%.
    """
    sides = [side for side in (x, y) if side is not None]
    if x and y and abs(x / y - 1) > AXIS_TOLERANCE:
        source += f", averaged ({x:.4g} and {y:.4g})"
    return (sum(sides) / len(sides) if sides else None), source
