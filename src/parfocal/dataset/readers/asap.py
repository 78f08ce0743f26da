"""Read lesion outlines from the XML annotations of ASAP.

CAMELYON16 puts tumor in the groups `_0`, `_1` or `Tumor` and holes in `_2` or `Exclusion`;
CAMELYON17 uses `metastases` and `normal`. Coordinates are level-0 pixels.
"""

import logging
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import shapely
from jaxtyping import Float

from parfocal.dataset.cohort import CohortError
from parfocal.dataset.outlines import Outlines, Polygon, to_shapely

logger = logging.getLogger(__name__)

LESION_GROUPS = ("_0", "_1", "tumor", "metastases")
HOLE_GROUPS = ("_2", "exclusion", "normal")
IGNORED_GROUPS = ("none",)
FOLDERS = ("annotations", "lesion_annotations")

Ring = Float[np.ndarray, "_ 2"]


def find_annotations(folder: Path) -> dict[str, bytes]:
    """Return the ASAP XML of each slide, from annotation folders or their zip files.

    Raises:
        CohortError: a zip file is truncated or damaged.
    """
    annotations = {
        path.stem.lower(): path.read_bytes()
        for path in sorted(folder.rglob("*.xml"))
        if path.parent.name in FOLDERS
    }
    for path in sorted(folder.rglob("lesion_annotations.zip")):
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.lower().endswith(".xml"):
                        annotations.setdefault(Path(name).stem.lower(), archive.read(name))
        except zipfile.BadZipFile:
            raise CohortError(
                f"{path}: not a complete zip file. Download it again, or delete it to continue "
                "without outlines."
            ) from None
    return annotations


def read_annotations(name: str, xml: bytes, size: tuple[int, int]) -> Outlines:
    """Read the lesions of a slide with their holes.

    Args:
        name: name of the slide, for messages.
        xml: the ASAP XML.
        size: width and height of the slide at level 0.

    Raises:
        CohortError: the XML is not from ASAP, has an unknown group, or belongs to another slide.
    """
    lesions, holes = [], []
    for group, ring in _rings(name, xml):
        if len(ring) < 3:
            logger.warning("%s: ignored an annotation of %d points, without area", name, len(ring))
        elif group in LESION_GROUPS:
            lesions.append(_check_bounds(name, ring, size))
        elif group in HOLE_GROUPS:
            holes.append(_check_bounds(name, ring, size))
        elif group not in IGNORED_GROUPS:
            raise CohortError(
                f"{name}: unknown annotation group {group!r} (known: "
                f"{', '.join(LESION_GROUPS + HOLE_GROUPS)}). The annotations are from another "
                "release or another data set."
            )
    return Outlines(tuple(_with_holes(lesions, holes)))


def _rings(name: str, xml: bytes) -> list[tuple[str, Ring]]:
    """Return the group and the corners of each annotation, in file order."""
    try:
        root = ElementTree.fromstring(xml)
        rings = [
            (annotation.attrib["PartOfGroup"].lower(), _ring(name, number, annotation))
            for number, annotation in enumerate(root.iter("Annotation"), start=1)
        ]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise CohortError(
            f"{name}: its annotations are not ASAP XML ({type(error).__name__}: {error}). Download "
            "them again."
        ) from None
    if root.tag != "ASAP_Annotations":
        raise CohortError(
            f"{name}: its annotations are <{root.tag}> XML, not ASAP XML. Download the annotations "
            "of the data set."
        )
    return rings


def _ring(name: str, number: int, annotation: ElementTree.Element) -> Ring:
    """Return the corners of an annotation, in their order."""
    corners = [each.attrib for each in annotation.iter("Coordinate")]
    values = np.array(
        [(float(each["Order"]), float(each["X"]), float(each["Y"])) for each in corners]
    ).reshape(-1, 3)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise CohortError(
            f"{name}: annotation {number} ({annotation.attrib.get('Name', 'no name')}), coordinate "
            f"{bad + 1} is not a finite number (X={corners[bad]['X']}, Y={corners[bad]['Y']}). "
            "Correct the annotation, or download it again."
        )
    return values[np.argsort(values[:, 0], kind="stable"), 1:]


def _check_bounds(name: str, ring: Ring, size: tuple[int, int]) -> Ring:
    """Return the ring; raise if it leaves the slide by more than 1% of the longer side."""
    slack = 0.01 * max(size)
    if ring.min() < -slack or (ring.max(axis=0) > np.array(size) + slack).any():
        x, y = ring.max(axis=0)
        raise CohortError(
            f"{name}: an annotation reaches to x={x:.0f}, y={y:.0f} but the slide is {size[0]} x "
            f"{size[1]} pixels. The annotations belong to another slide."
        )
    return ring


def _with_holes(lesions: list[Ring], holes: list[Ring]) -> list[Polygon]:
    """Assign each hole to the lesion that contains most of its corners, if it has more than half.

    Corners are counted rather than areas compared because rings drawn by hand may cross
    themselves.
    """
    shapes = np.array([to_shapely(Polygon(ring)) for ring in lesions], dtype=object)
    shapely.prepare(shapes)
    tree, assigned = shapely.STRtree(shapes), [list[Ring]() for _ in lesions]
    for hole in holes:
        near = np.sort(tree.query(shapely.box(*hole.min(axis=0), *hole.max(axis=0))))
        shares = [shapely.intersects_xy(shapes[each], *hole.T).mean() for each in near]
        if shares and max(shares) > 0.5:
            assigned[near[int(np.argmax(shares))]].append(_closed(hole))
    return [Polygon(_closed(ring), tuple(own)) for ring, own in zip(lesions, assigned, strict=True)]


def _closed(ring: Ring) -> Ring:
    return ring if (ring[0] == ring[-1]).all() else np.concatenate([ring, ring[:1]])
