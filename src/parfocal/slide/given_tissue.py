"""Take the tissue of a slide from a file, GeoJSON or a mask image, or else find it."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from parfocal.polygons import (
    SUFFIXES,
    ClassPolygon,
    PolygonFileError,
    is_polygon_name,
    read_polygons,
)
from parfocal.slide.errors import NoTissueError, SlideError
from parfocal.slide.mask_image import MaskImageError, read_mask_image
from parfocal.slide.rasterize import fill_polygons
from parfocal.slide.slide import Slide
from parfocal.slide.tissue import (
    ALL_OVER,
    Method,
    Tissue,
    find_tissue,
    mask_mpp,
    tissue_from_mask,
)

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".jpg", ".jpeg")
EXCLUDED_CLASSES = ("Artifact*", "Pen", "Ignore*")
HASH_DIGITS = 32
MAX_OUTSIDE = 0.05  # share of the scan's side by which areas may extend beyond it
MIN_EDGE = 0.9  # share of the scan's edge that is tissue in an inverted mask
MIN_INSIDE = 0.5  # share of the tissue found on a scan that the given tissue contains
# Classes that are not excluded by default, but have names that are not those of tissue.
DOUBTFUL_CLASSES = (
    *("artef*", "background*", "glass*", "empty*", "hole*", "exclu*", "pen*", "marker*", "ink*"),
    *("fold*", "blur*", "out of focus*", "bubble*", "dust*"),
)

logger = logging.getLogger(__name__)

Mask = Bool[np.ndarray, "h w"]


class TissueFileError(SlideError):
    """A tissue file that cannot be used for a slide.

    Args:
        slide: the slide.
        path: the tissue file.
        problem: what is wrong with it, and what to do.
    """

    def __init__(self, slide: Slide, path: Path, problem: str) -> None:
        super().__init__(f"{slide.name}: tissue file {path.name}: {problem}")


def slide_tissue(
    slide: Slide,
    *,
    method: Method = "otsu",
    exclude_classes: Sequence[str] = EXCLUDED_CLASSES,
) -> Tissue:
    """Return the tissue in the slide's tissue file, or find it if the slide has none.

    Args:
        slide: the slide.
        method: how to find the tissue; see `find_tissue`.
        exclude_classes: classes whose areas in a GeoJSON file are not tissue; see
            `read_tissue`.

    Raises:
        TissueFileError: the file cannot be used.
        NoTissueError: the slide has no tissue.
        SlideError: the slide is damaged.
    """
    if slide.tissue_path is None:
        return find_tissue(slide, method=method)
    return read_tissue(slide.tissue_path, slide, method=method, exclude_classes=exclude_classes)


def read_tissue(
    path: Path,
    slide: Slide,
    *,
    method: Method = "otsu",
    exclude_classes: Sequence[str] = EXCLUDED_CLASSES,
) -> Tissue:
    """Read the tissue of a slide from a file.

    Args:
        path: GeoJSON in level-0 pixels, as QuPath and TRIDENT write it, or an image of the whole
            scan in which tissue is not 0.
        slide: the slide.
        method: how to find the tissue, if the GeoJSON file has areas of excluded classes only;
            they are then subtracted from what is found.
        exclude_classes: names of the classes whose areas are subtracted, regardless of case; `*`
            stands for any text. A name matches a class derived from it, as "Pen: blue".

    Raises:
        TissueFileError: the file cannot be read, does not fit the scan, or leaves no tissue.
        SlideError: the slide is damaged, or has no tissue to be found.
    """
    if not path.is_file():
        raise TissueFileError(slide, path, "no such file; correct the path.")
    classes = doubt = ""
    if is_polygon_name(path.name):
        areas = _read_areas(path, slide)
        classes, doubt = _describe_classes(areas, exclude_classes)
        mask = _mask_of_areas(areas, slide, method, exclude_classes)
    else:
        mask = _mask_of_image(path, slide)
    if not mask.any():
        raise TissueFileError(
            slide, path, "it leaves no tissue on the scan; draw some, or leave the slide out."
        )
    mpp = max(slide.size) * slide.mpp / max(mask.shape)
    fingerprint = tissue_fingerprint(path, exclude_classes)
    tissue = tissue_from_mask(slide, mask, mpp, fingerprint=fingerprint)
    doubt = doubt or _doubt(slide, tissue, in_um=bool(classes) and slide.mpp < 1)
    warning = f"{slide.name}: tissue file {path.name}: {doubt}" if doubt else None
    return replace(tissue, classes=classes, warning=warning)


def found_share_inside(slide: Slide, tissue: Tissue) -> float | None:
    """Return the share of the tissue found on a slide that the given tissue contains.

    Returns:
        A share in 0..1; None where no tissue can be found.
    """
    try:
        found = find_tissue(slide).mask
    except NoTissueError:
        return None
    rows, columns = (
        np.arange(length) * given // length
        for length, given in zip(found.shape, tissue.mask.shape, strict=True)
    )
    return float(tissue.mask[np.ix_(rows, columns)][found].mean())


def tissue_fingerprint(path: Path | None, exclude_classes: Sequence[str]) -> str:
    """Return a hash of a tissue file and the excluded classes; empty without a file.

    Raises:
        SlideError: the file cannot be read.
    """
    if path is None:
        return ""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SlideError(f"tissue file {path}: it cannot be read ({error.strerror}).") from None
    classes = "\n".join(sorted(exclude_classes)).encode()
    return sha256(content + b"\0" + classes).hexdigest()[:HASH_DIGITS]


def find_tissue_file(folder: Path, slide_id: str) -> Path | None:
    """Return the tissue file of a slide in a folder; None if there is none.

    Args:
        folder: folder of files that are named after their slides, as TRIDENT's
            `contours_geojson`.
        slide_id: id of the slide.
    """
    files = (folder / f"{slide_id}{suffix}" for suffix in (*SUFFIXES, *MASK_SUFFIXES))
    return next((file for file in files if file.is_file()), None)


def _read_areas(path: Path, slide: Slide) -> tuple[ClassPolygon, ...]:
    try:
        file = read_polygons(path)
    except PolygonFileError as error:
        raise TissueFileError(slide, path, f"{error}.") from None
    ignored = ", ".join(file.ignored)
    if not file.polygons:
        found = f", only {ignored}" if ignored else ""
        raise TissueFileError(slide, path, f"it has no polygon{found}; draw the tissue as areas.")
    if ignored:
        logger.warning(
            "%s: tissue file %s: ignored %s, which have no area", slide.name, path.name, ignored
        )
    _check_range(slide, path, file.polygons)
    return file.polygons


def _describe_classes(
    areas: Iterable[ClassPolygon], exclude_classes: Sequence[str]
) -> tuple[str, str]:
    """Return the classes that are tissue and those that are not, and why they may be wrong."""
    names = Counter(area.class_name or "no class" for area in areas)
    excluded = {name for name in names if _matches(name, exclude_classes)}
    counts = [
        [f"{name} {names[name]}" for name in names if (name in excluded) is out]
        for out in (False, True)
    ]
    parts = [", ".join(counts[0])] if counts[0] else []
    parts += [f"without {', '.join(counts[1])}"] if counts[1] else []
    doubtful = [name for name in names if name not in excluded and _matches(name, DOUBTFUL_CLASSES)]
    doubt = (
        f"areas of class {', '.join(doubtful)} count as tissue. If they are not tissue, add the "
        "name to slide.exclude_classes."
    )
    return "; ".join(parts), doubt if doubtful else ""


def _mask_of_areas(
    areas: Sequence[ClassPolygon], slide: Slide, method: Method, exclude_classes: Sequence[str]
) -> Mask:
    excluded = [area for area in areas if _matches(area.class_name, exclude_classes)]
    included = [area for area in areas if not _matches(area.class_name, exclude_classes)]
    if included:
        mask = _fill(slide, included)
    else:
        mask = find_tissue(slide, method=method).mask
        if mask.size == 1:  # method "all"
            mask = np.ones(_mask_shape(slide), dtype=bool)
    kept: Mask = mask & ~fill_polygons(excluded, mask.shape, _scale(slide, mask.shape))
    return kept


def _doubt(slide: Slide, tissue: Tissue, *, in_um: bool) -> str:
    """Return why the given tissue may be wrong; empty if there is no reason to doubt it.

    Args:
        slide: the slide, which is read only if the shape of the tissue is unusual.
        tissue: the given tissue.
        in_um: whether it may have been given in microns.
    """
    if tissue.share >= ALL_OVER:
        return f"it covers {tissue.share:.1%} of the scan. Check that it is of this slide."
    mask = tissue.mask
    height, width = (min(side, int(side * slide.mpp) + 1) for side in mask.shape)
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    if edge >= MIN_EDGE:
        reason = "It is tissue at the edge of the scan, so it may be inverted."
    elif in_um and not (mask[height:].any() or mask[:, width:].any()):
        reason = "It may be in microns instead of level-0 pixels."
    else:
        return ""
    inside = found_share_inside(slide, tissue)
    if inside is None or inside >= MIN_INSIDE:
        return ""
    return f"it contains only {inside:.0%} of the tissue that is found on the scan. {reason}"


def _matches(class_name: str | None, patterns: Iterable[str]) -> bool:
    if class_name is None:
        return False
    name = class_name.casefold()
    names = (name, name.split(":")[0].strip())
    return any(fnmatchcase(each, pattern.casefold()) for each in names for pattern in patterns)


def _check_range(slide: Slide, path: Path, areas: Sequence[ClassPolygon]) -> None:
    corners = np.concatenate([area.outer for area in areas])
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.array(slide.size)
    margin = MAX_OUTSIDE * size.max()
    if (low < -margin).any() or (high > size + margin).any():
        raise TissueFileError(
            slide,
            path,
            f"its areas extend over x {low[0]:.0f} to {high[0]:.0f} and y {low[1]:.0f} to "
            f"{high[1]:.0f}, and the scan is {size[0]} x {size[1]} px. Export them of this slide, "
            "in level-0 pixels from the top-left corner of the whole scan.",
        )


def _fill(slide: Slide, areas: Sequence[ClassPolygon]) -> Mask:
    shape = _mask_shape(slide)
    return fill_polygons(areas, shape, _scale(slide, shape))


def _mask_shape(slide: Slide) -> tuple[int, int]:
    """Return height and width of a mask of about 16 microns per pixel."""
    factor = slide.mpp / mask_mpp(slide)
    width, height = (max(1, round(side * factor)) for side in slide.size)
    return height, width


def _scale(slide: Slide, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return pixels of a mask per level-0 pixel, horizontally and vertically."""
    return shape[1] / slide.size[0], shape[0] / slide.size[1]


def _mask_of_image(path: Path, slide: Slide) -> Mask:
    try:
        mask = read_mask_image(path, slide.size, slide.mpp)
    except MaskImageError as error:
        raise TissueFileError(slide, path, str(error)) from None
    return _shrink(mask, slide)


def _shrink(mask: Mask, slide: Slide) -> Bool[np.ndarray, "_ _"]:
    """Return a mask with pixels of about 16 microns, if it has smaller ones."""
    factor = max(mask.shape) // max(_mask_shape(slide))
    if factor < 2:
        return mask
    image = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).reduce(factor)
    return np.asarray(image) > 127
