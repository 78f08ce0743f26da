"""Take the tissue of a slide from a file, GeoJSON or a mask image, or else find it."""

import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, UnidentifiedImageError

from parfocal.polygons import ClassPolygon, PolygonFileError, read_polygons
from parfocal.slide.errors import SlideError, one_line
from parfocal.slide.rasterize import fill_polygons
from parfocal.slide.slide import Slide
from parfocal.slide.tissue import (
    MASK_MPP,
    Method,
    Tissue,
    find_tissue,
    mask_mpp,
    tissue_from_mask,
)

GEOJSON_SUFFIXES = (".geojson", ".json")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".jpg", ".jpeg")
EXCLUDED_CLASSES = ("Artifact*", "Pen", "Ignore*")
HASH_DIGITS = 32
MAX_OUTSIDE = 0.05  # share of the scan's side by which areas may extend beyond it
MAX_MASK_MPP = 100.0
SHAPE_TOLERANCE = 0.01  # relative difference of the two ratios of a mask's sides to the scan's

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
    if path.suffix.lower() in GEOJSON_SUFFIXES:
        mask = _mask_of_areas(path, slide, method, exclude_classes)
    else:
        mask = _mask_of_image(path, slide)
    if not mask.any():
        raise TissueFileError(
            slide, path, "it leaves no tissue on the scan; draw some, or leave the slide out."
        )
    mpp = max(slide.size) * slide.mpp / max(mask.shape)
    fingerprint = tissue_fingerprint(path, exclude_classes)
    return tissue_from_mask(slide, mask, mpp, fingerprint=fingerprint)


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
    files = (folder / f"{slide_id}{suffix}" for suffix in (*GEOJSON_SUFFIXES, *MASK_SUFFIXES))
    return next((file for file in files if file.is_file()), None)


def _mask_of_areas(
    path: Path, slide: Slide, method: Method, exclude_classes: Sequence[str]
) -> Mask:
    try:
        file = read_polygons(path)
    except PolygonFileError as error:
        raise TissueFileError(slide, path, f"{error}.") from None
    if not file.polygons:
        found = f", only {', '.join(file.ignored)}" if file.ignored else ""
        raise TissueFileError(slide, path, f"it has no polygon{found}; draw the tissue as areas.")
    excluded = [area for area in file.polygons if _is_excluded(area, exclude_classes)]
    included = [area for area in file.polygons if not _is_excluded(area, exclude_classes)]
    _check_range(slide, path, file.polygons)
    if included:
        mask = _fill(slide, included)
    else:
        mask = find_tissue(slide, method=method).mask
        if mask.size == 1:  # method "all"
            mask = np.ones(_mask_shape(slide), dtype=bool)
    kept: Mask = mask & ~fill_polygons(excluded, mask.shape, _scale(slide, mask.shape))
    return kept


def _is_excluded(area: ClassPolygon, exclude_classes: Iterable[str]) -> bool:
    if area.class_name is None:
        return False
    name = area.class_name.casefold()
    names = (name, name.split(":")[0].strip())
    return any(
        fnmatchcase(each, pattern.casefold()) for each in names for pattern in exclude_classes
    )


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
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(path) as image,
        ):
            _check_shape(slide, path, image.size)
            mask = _is_tissue(slide, path, image)
    except SlideError:
        raise
    except Image.DecompressionBombError:
        raise TissueFileError(
            slide, path, f"the mask is too large; {MASK_MPP:g} µm per pixel are enough."
        ) from None
    except UnidentifiedImageError:
        raise TissueFileError(
            slide, path, "neither GeoJSON (.geojson, .json) nor an image that can be read."
        ) from None
    except (OSError, ValueError, SyntaxError) as error:
        raise TissueFileError(
            slide, path, f"the image cannot be read ({one_line(error)})."
        ) from None
    return _shrink(mask, slide)


def _check_shape(slide: Slide, path: Path, size: tuple[int, int]) -> None:
    (width, height), (slide_width, slide_height) = size, slide.size
    across, down = slide_width / width, slide_height / height
    described = f"the mask is {width} x {height} px, and the scan {slide_width} x {slide_height} px"
    if abs(across / down - 1) > SHAPE_TOLERANCE + 1 / width + 1 / height:
        raise TissueFileError(
            slide,
            path,
            f"{described}, which is another shape. Give a mask of the whole scan, neither cropped "
            "nor rotated.",
        )
    if across < 1 - SHAPE_TOLERANCE:
        raise TissueFileError(
            slide, path, f"{described}, which is smaller. Give a mask of this slide."
        )
    if max(across, down) * slide.mpp > MAX_MASK_MPP and min(size) > 1:
        raise TissueFileError(
            slide,
            path,
            f"{described}, so that a pixel of the mask is {across * slide.mpp:.0f} um wide. Save "
            f"it with at most {MAX_MASK_MPP:g} µm per pixel; {MASK_MPP:g} are enough.",
        )


def _is_tissue(slide: Slide, path: Path, image: Image.Image) -> Mask:
    """Return which pixels of a mask image are tissue: those that are not 0."""
    if image.mode in ("1", "L", "P", "I", "I;16", "I;16B", "F"):
        values = np.asarray(image)
    else:
        values = np.asarray(image.convert("RGB"))
        if (values != values[:, :, :1]).any():
            raise TissueFileError(
                slide,
                path,
                "a color picture, not a mask. Save an image of one channel, 0 where there is no "
                "tissue.",
            )
        values = values[:, :, 0]
    # JPEG changes values a little, so that the background is not 0 everywhere.
    tissue: Mask = values > (127 if image.format == "JPEG" else 0)
    return tissue


def _shrink(mask: Mask, slide: Slide) -> Bool[np.ndarray, "_ _"]:
    """Return a mask with pixels of about 16 microns, if it has smaller ones."""
    factor = max(mask.shape) // max(_mask_shape(slide))
    if factor < 2:
        return mask
    image = Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).reduce(factor)
    return np.asarray(image) > 127
