"""The patches of one slide at one magnification, as all other tools store them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from parfocal.features.errors import StoreError
from parfocal.features.rows import RowReader

# Level-0 pixels; µm; or patches lie relative to each other only, at an unknown place on the slide.
Unit = Literal["px", "um", "unknown"]


@dataclass(frozen=True)
class ScanFacts:
    """What the slide file records, if it is available.

    Args:
        size: width and height in level-0 pixels.
        mpp: µm per level-0 pixel.
    """

    size: tuple[int, int]
    mpp: float


@dataclass(frozen=True)
class ToolPatches:
    """The patches of one slide at one magnification, as a tool stored them.

    Args:
        rows: reads the features.
        corners: (x, y) of the top-left corner of each patch.
        side: side of a patch.
        unit: unit of `corners` and `side`.
        patch_size: side of a patch in pixels, before the encoder resizes it.
        mpp: µm per pixel of the patch that the tool intended; None if it stores none and the slide
            is not available.
        encoder: encoder as the tool calls it; empty if it does not say.
        overlap: pixels that neighboring patches share.
        slide_size: width and height of the slide in level-0 pixels, as stored; None if unknown.
    """

    rows: RowReader
    corners: Float[np.ndarray, "n 2"]
    side: float
    unit: Unit
    patch_size: int
    mpp: float | None
    encoder: str
    overlap: float = 0.0
    slide_size: tuple[int, int] | None = None


@runtime_checkable
class ToolFolder(Protocol):
    """A folder of features that one tool wrote."""

    @property
    def tool(self) -> str:
        """Name of the tool, for messages."""

    @property
    def path(self) -> Path:
        """The folder."""

    @property
    def files(self) -> dict[str, Path]:
        """The file with the features of each slide, by the name of the slide."""

    def read(self, name: str, scan: ScanFacts | None) -> tuple[ToolPatches, ...]:
        """Return the patches of a slide at each magnification of the folder, lowest first.

        Args:
            name: name of the slide, one of `files`.
            scan: what the slide file records; None if it is not available.

        Raises:
            StoreError: a file is missing, damaged or not as the tool writes it.
        """


def number(value: Any) -> float | None:
    """Return an attribute as a number; None if it is missing, "None" or no number.

    >>> number(np.float32(2.5)), number("40"), number("None")
    (2.5, 40.0, None)
    """
    if isinstance(value, np.ndarray):
        value = value.flat[0] if value.size else None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None


def text(value: Any) -> str:
    """Return an attribute as text; empty if it is missing or "None"."""
    found = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return "" if value is None or found == "None" else found


def size(width: Any, height: Any) -> tuple[int, int] | None:
    """Return two attributes as a size; None if one is missing."""
    numbers = number(width), number(height)
    return None if numbers[0] is None or numbers[1] is None else (int(numbers[0]), int(numbers[1]))


def require(value: float | None, path: Path, what: str, *, tool: str) -> float:
    """Return a number that a file has to store.

    Raises:
        StoreError: it is missing or not positive.
    """
    if value is None or value <= 0:
        found = "is missing" if value is None else f"is {value:g}"
        raise StoreError(
            f"{path}: {what} {found}, so it is unknown where the patches lie. Extract this slide "
            f"again with {tool}."
        )
    return value


def check_counts(
    path: Path, coords: Float[np.ndarray, "n 2"], features: tuple[int, ...], *, tool: str
) -> None:
    """Refuse a slide without patches, and coordinates of another number than the features.

    Raises:
        StoreError: one of both.
    """
    if not len(coords) and (not features or features[0] == 0):
        raise empty_error(path, tool=tool)
    if len(features) != 2 or features[0] != len(coords):
        raise StoreError(
            f"{path}: {len(coords)} coordinates and features of shape {features} do not belong "
            f"together. Delete the file and extract again with {tool}."
        )


def empty_error(path: Path, *, tool: str) -> StoreError:
    """Return the error for a slide without patches."""
    return StoreError(
        f"{path}: the slide has no patches (0 rows): {tool} found no tissue on it. Remove it from "
        "the cohort, or extract it again with other tissue settings."
    )
