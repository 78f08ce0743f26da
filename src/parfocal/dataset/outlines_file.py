"""Where the lesion outlines of a slide are: a file, the classes that count, and an offset."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

BOUNDS: Literal["bounds"] = "bounds"
CLASS_SEPARATORS = re.compile(r"[|;,]")
FILE_AND_CLASSES = re.compile(r"(.+?\.(?:(?:geo)?json(?:\.gz|\.zip)?|zip))\s*:(.*)", re.IGNORECASE)
NUMBER_PAIR = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*[\s,;|x]\s*([+-]?\d+(?:\.\d+)?)")

Offset = tuple[float, float] | Literal["bounds"]


@dataclass(frozen=True)
class OutlinesFile:
    """A GeoJSON file with outlines of a slide.

    Args:
        path: the file.
        classes: names of the classes that are lesions, regardless of case; `Tumor*` is every
            name that begins so. Empty for all polygons of the file.
        offset: (x, y) that is added to every corner, in level-0 pixels; "bounds" for the corner of
            the scanned area that the slide file records, where some viewers count from.
    """

    path: Path
    classes: tuple[str, ...] = ()
    offset: Offset = (0.0, 0.0)


def parse_outlines(text: str, offset: str, find: Callable[[str], Path]) -> OutlinesFile:
    """Parse the cells `outlines` and `outlines_offset` of a cohort.

    Args:
        text: a file name, or a file name, a colon and class names: `a.geojson:Tumor|Metastasis`.
        offset: empty, `bounds`, or two numbers: `2048 77`.
        find: returns the path of a file name in the table.

    Raises:
        ValueError: the offset is not one of these, or no class follows the colon.
    """
    shift = _parse_offset(offset)
    split = FILE_AND_CLASSES.fullmatch(text)
    if split is None or os.path.exists(find(text)):  # noqa: PTH110  # see rows.file_exists
        return OutlinesFile(find(text), (), shift)
    names = [name.strip() for name in CLASS_SEPARATORS.split(split[2])]
    classes = tuple(name for name in names if name)
    if not classes:
        raise ValueError(
            f"outlines {text!r} names no class after the colon; write {split[1]}:Tumor, or leave "
            "the colon out for all classes"
        )
    return OutlinesFile(find(split[1]), classes, shift)


def _parse_offset(text: str) -> Offset:
    if not text:
        return (0.0, 0.0)
    if text.casefold() == BOUNDS:
        return BOUNDS
    numbers = NUMBER_PAIR.fullmatch(text.strip("()[]"))
    if numbers is None:
        raise ValueError(
            f"outlines_offset {text!r} is not x and y in level-0 pixels, such as 2048 77, nor the "
            "word bounds"
        )
    return float(numbers[1]), float(numbers[2])
