"""Scan: what a slide format offers, stored levels and their pixels.

A format only hands out stored pixels; everything about resolution is decided in `slide.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Level:
    """A stored resolution: its size in its own pixels, and level-0 pixels per pixel."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class Record:
    """What a file says about itself, unchecked.

    Args:
        vendor: the format, as the reader calls it.
        mpp: microns per level-0 pixel; None where the file does not say.
        mpp_source: where the file says so.
        objective_power: nominal magnification of the objective, as written.
    """

    vendor: str
    mpp: float | None = None
    mpp_source: str = ""
    objective_power: str | None = None


@runtime_checkable
class Scan(Protocol):
    """An open file of some format; any thread and any process may read it."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The stored resolutions, sharpest first."""

    @property
    def record(self) -> Record:
        """What the file says about itself."""

    def read_level(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Read stored pixels, in the level's own and inside it; they are not to be written on."""

    def close(self) -> None:
        """Let go of the file."""


def levels_of(sizes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Work out downsamples from the (width, height) of stored levels, sharpest first.

    Writers cut by a whole number and drop or round up the rest, so 4443 x 3567 over
    2221 x 1783 is 2, not 2.0005; a size no whole number explains gives the mean quotient.

    >>> [level.downsample for level in levels_of([(4443, 3567), (2221, 1783), (1000, 800)])]
    [1.0, 2.0, 4.450875]
    """
    (full_width, full_height), levels = sizes[0], []
    for width, height in sizes:
        downsample = (full_width / width + full_height / height) / 2
        whole = max(1, round(downsample))
        if all(
            floor(full / whole) <= size <= ceil(full / whole)
            for full, size in ((full_width, width), (full_height, height))
        ):
            downsample = float(whole)
        levels.append(Level(width, height, downsample))
    return tuple(levels)


def mean_mpp(x: float | None, y: float | None, *, source: str) -> tuple[float | None, str]:
    """Average the sides of a pixel, and tell in the source where they differ."""
    known = [side for side in (x, y) if side is not None]
    if x and y and abs(x / y - 1) > 0.01:
        source += f", averaged ({x:.4g} and {y:.4g})"
    return (sum(known) / len(known) if known else None), source
