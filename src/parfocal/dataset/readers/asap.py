"""Lesions as ASAP draws them, in XML, as outlines.

CAMELYON16 draws tumor in groups `_0`, `_1` or `Tumor` and what is cut out of it in `_2` or
`Exclusion`; CAMELYON17 in `metastases` and `normal`. Both are in level-0 pixels.
"""

import logging
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float

from parfocal.dataset.cohort import CohortError
from parfocal.dataset.outlines import Outlines, Polygon

logger = logging.getLogger(__name__)

LESIONS = ("_0", "_1", "tumor", "metastases")
CUT_OUT = ("_2", "exclusion", "normal")
FOLDERS = ("annotations", "lesion_annotations")
UNUSED = ("none",)  # drawn by the way and put into no group

Ring = Float[np.ndarray, "v 2"]


def find_drawings(folder: Path) -> dict[str, bytes]:
    """Give a set's ASAP files by slide, from folders of annotations or their zip files."""
    drawings = {
        path.stem.lower(): path.read_bytes()
        for path in sorted(folder.rglob("*.xml"))
        if path.parent.name in FOLDERS
    }
    for path in sorted(folder.rglob("lesion_annotations.zip")):
        try:
            with zipfile.ZipFile(path) as packed:
                for name in packed.namelist():
                    if name.lower().endswith(".xml"):
                        drawings.setdefault(Path(name).stem.lower(), packed.read(name))
        except zipfile.BadZipFile:
            raise CohortError(
                f"{path}: not a whole zip file; download it again, or delete it to do without "
                "outlines."
            ) from None
    return drawings


def read_drawing(name: str, drawing: bytes, size: tuple[int, int]) -> Outlines:
    """Read the lesions of a slide, what is cut out of them as holes.

    Args:
        name: of the slide, for messages.
        drawing: the ASAP XML.
        size: width and height of the slide at level 0.

    Raises:
        CohortError: it is not ASAP's, has a group nobody knows, or was drawn on another slide.
    """
    lesions, holes = [], []
    for group, ring in _rings(name, drawing):
        if len(ring) < 3:
            logger.warning("%s: an annotation of %d points has no area", name, len(ring))
        elif group in LESIONS:
            lesions.append(_within(name, ring, size))
        elif group in CUT_OUT:
            holes.append(_within(name, ring, size))
        elif group not in UNUSED:
            raise CohortError(
                f"{name}: its annotations have a group {group!r}; known are "
                f"{', '.join(LESIONS + CUT_OUT)}. They are of another release or another set."
            )
    return Outlines(tuple(_with_holes(lesions, holes)))


def _rings(name: str, drawing: bytes) -> list[tuple[str, Ring]]:
    """Give each annotation's group and corners, in their order."""
    try:
        root = ElementTree.fromstring(drawing)
        rings = []
        for annotation in root.iter("Annotation"):
            corners = sorted(annotation.iter("Coordinate"), key=lambda c: float(c.attrib["Order"]))
            points = [(float(c.attrib["X"]), float(c.attrib["Y"])) for c in corners]
            ring = np.array(points, dtype=np.float64).reshape(-1, 2)
            rings.append((annotation.attrib["PartOfGroup"].lower(), ring))
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise CohortError(
            f"{name}: its annotations are not ASAP's XML ({type(error).__name__}: {error}); "
            "download them again."
        ) from None
    if root.tag != "ASAP_Annotations":
        raise CohortError(f"{name}: its annotations are <{root.tag}>, not ASAP's; get the set's.")
    return rings


def _within(name: str, ring: Ring, size: tuple[int, int]) -> Ring:
    """Refuse what lies off the slide, by more than a line drawn along its edge may."""
    slack = 0.01 * max(size)
    if ring.min() < -slack or (ring.max(axis=0) > np.array(size) + slack).any():
        x, y = ring.max(axis=0)
        raise CohortError(
            f"{name}: an annotation reaches to x={x:.0f}, y={y:.0f} but the slide is {size[0]} x "
            f"{size[1]} pixels; the annotations belong to another slide."
        )
    return ring


def _with_holes(lesions: list[Ring], holes: list[Ring]) -> list[Polygon]:
    """Give each hole to the first lesion that most of its corners lie in."""
    cut: list[list[Ring]] = [[] for _ in lesions]
    for hole in holes:
        shares = [_inside(ring, hole).mean() for ring in lesions]
        if shares and max(shares) > 0.5:
            cut[int(np.argmax(shares))].append(_closed(hole))
    return [Polygon(_closed(ring), tuple(own)) for ring, own in zip(lesions, cut, strict=True)]


def _inside(ring: Ring, points: Float[np.ndarray, "p 2"]) -> Float[np.ndarray, " p"]:
    """Tell by the even-odd rule which points lie in a ring: 1 or 0."""
    inside = np.zeros(len(points), dtype=bool)
    x, y = points.T
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            inside ^= crosses & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside.astype(np.float64)


def _closed(ring: Ring) -> Float[np.ndarray, "w 2"]:
    return ring if (ring[0] == ring[-1]).all() else np.concatenate([ring, ring[:1]])
