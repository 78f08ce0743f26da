"""Find the levels of the scan among the images of a TIFF.

A file may hold its levels in any order, in one chain of directories or below the first, together
with a label, an overview of the glass and a thumbnail. Level 0 is the largest picture.
"""

from collections.abc import Sequence
from dataclasses import replace

from parfocal.slide.errors import SlideError
from parfocal.slide.readers.scan import Metadata
from parfocal.slide.readers.tiff_checks import all_directories
from parfocal.slide.readers.tiff_directories import TiffDirectory
from parfocal.slide.readers.tiff_metadata import (
    OmeImage,
    ome_metadata,
    read_metadata,
    read_ome_images,
)
from parfocal.slide.sources.url import SlidePath

SHAPE_TOLERANCE = 0.02  # largest difference between the downsamples of width and height
OTHER_PICTURE = 1 / 16  # of the largest picture's area; smaller ones are labels and overviews
EXTRA_NAMES = ("label", "macro", "overview", "thumbnail", "map")
SEPARATE = (
    "Save the one to use as a file of its own, for example with Bio-Formats' `bfconvert -series N "
    "IN OUT.ome.tif` (N counts from 0)."
)


def find_levels(
    path: SlidePath, directories: Sequence[TiffDirectory]
) -> tuple[list[TiffDirectory], Metadata]:
    """Return the directory of each level, sharpest first, and the metadata of level 0.

    Raises:
        SlideError: the file holds several pictures or planes, or levels of several shapes.
    """
    first = directories[0]
    if first.page.is_ome:
        return _find_ome_levels(path, directories)
    if first.page.is_imagej:
        _check_imagej(path, first)
    images = [d for d in all_directories(directories) if not d.is_mask]
    main = max(images, key=_area, default=first)
    _check_single(path, main, images)
    return _levels_of(path, main, images), read_metadata(main)


def _find_ome_levels(
    path: SlidePath, directories: Sequence[TiffDirectory]
) -> tuple[list[TiffDirectory], Metadata]:
    try:
        images = read_ome_images(directories[0].description)
        pictures = [image for image in images if image.first_directory < len(directories)]
        main = max(pictures, key=lambda image: image.size[0] * image.size[1])
    except ValueError as error:
        raise SlideError(
            f"{path.name}: the OME-XML describes no image ({error}). Export the file again."
        ) from error
    others = [image for image in pictures if image is not main and _is_candidate(image, main)]
    if others:
        sizes = " and ".join(
            f"{image.size[0]} x {image.size[1]} px" + (f" ({image.name})" if image.name else "")
            for image in (main, *others)[:4]
        )
        raise SlideError(
            f"{path.name}: the file holds {1 + len(others)} pictures: {sizes}. {SEPARATE}"
        )
    directory = directories[main.first_directory]
    if main.planes > 1:
        raise SlideError(
            f"{path.name}: the file holds {main.planes} {_color(directory)} planes: "
            f"{main.described_planes}. Convert it to one RGB image, for example in QuPath or Fiji."
        )
    if directory.size != main.size:
        raise SlideError(
            f"{path.name}: the OME-XML describes an image of {main.size[0]} x {main.size[1]} px, "
            f"but the file holds {directory.size[0]} x {directory.size[1]} px. Copy or export the "
            "file again."
        )
    levels = _levels_of(path, directory, [directory, *directory.reduced])
    return levels, ome_metadata(main)


def _is_candidate(image: OmeImage, main: OmeImage) -> bool:
    """Return whether an image may be the slide as well as the largest one."""
    if any(name in image.name.lower() for name in EXTRA_NAMES):
        return False
    side, main_side = image.sides[0], main.sides[0]
    if side is not None and main_side is not None and side > 4 * main_side:
        return False
    return image.size[0] * image.size[1] >= OTHER_PICTURE * main.size[0] * main.size[1]


def _check_single(path: SlidePath, main: TiffDirectory, images: Sequence[TiffDirectory]) -> None:
    """Raise if another image may be the slide as well as the largest one."""
    others = [
        image
        for image in images
        if image is not main
        and image.is_tiled == main.is_tiled
        and not image.is_reduced
        and (image.size == main.size or not _same_shape(main, image))
        and _area(image) >= OTHER_PICTURE * _area(main)
    ]
    if not others:
        return
    if all(image.size == main.size for image in others):
        raise SlideError(
            f"{path.name}: the file holds {1 + len(others)} {_color(main)} pictures of "
            f"{main.size[0]} x {main.size[1]} px, such as channels or depths. {SEPARATE}"
        )
    sizes = " and ".join(f"{image.size[0]} x {image.size[1]} px" for image in (main, *others)[:4])
    raise SlideError(f"{path.name}: the file holds {1 + len(others)} pictures: {sizes}. {SEPARATE}")


def _levels_of(
    path: SlidePath, main: TiffDirectory, images: Sequence[TiffDirectory]
) -> list[TiffDirectory]:
    """Return level 0 and the smaller images that are stored like it, sharpest first."""
    levels = {main.size: main}
    for image in sorted(images, key=_area, reverse=True):
        if image.size in levels or image.is_tiled != main.is_tiled:
            continue
        is_level = _same_shape(main, image) and _stored_alike(main, image)
        if is_level and _area(image) < _area(main):
            levels[image.size] = image
        elif _claims_level(main, image):
            # A label or an overview is tagged so too, but is stored in strips.
            what = "pixels" if _same_shape(main, image) else "shape"
            raise SlideError(
                f"{path.name}: a smaller level of {image.size[0]} x {image.size[1]} px does not "
                f"have the {what} of level 0, {main.size[0]} x {main.size[1]} px. Copy the file "
                "again from its source."
            )
    return list(levels.values())


def _claims_level(main: TiffDirectory, image: TiffDirectory) -> bool:
    """Return whether an image that cannot be a level is meant to be one: its tags are damaged."""
    if _same_shape(main, image):
        return image.is_tiled or image.is_reduced
    return image.is_tiled and image.is_reduced


def _stored_alike(main: TiffDirectory, image: TiffDirectory) -> bool:
    """Return whether two images have the same kind of pixels; a thumbnail often has another."""
    return (image.is_tiled, image.samples, image.bits, image.orientation) == (
        *(main.is_tiled, main.samples, main.bits, main.orientation),
    )


def _same_shape(main: TiffDirectory, image: TiffDirectory) -> bool:
    """Return whether an image can be a smaller version of another, up to rounded sides."""
    (width, height), (full_width, full_height) = image.size, main.size
    low = full_width / (width + 1), full_height / (height + 1)
    high = full_width / max(width - 1, 0.5), full_height / max(height - 1, 0.5)
    quotient = full_width / width / (full_height / height)
    is_rounded = low[0] <= high[1] and low[1] <= high[0]
    return is_rounded or abs(quotient - 1) <= SHAPE_TOLERANCE


def _check_imagej(path: SlidePath, first: TiffDirectory) -> None:
    """Raise if ImageJ stored several images behind one directory."""
    for line in first.description.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "images" and value.strip().isdigit() and int(value) > 1:
            raise SlideError(
                f"{path.name}: the file is an ImageJ stack of {int(value)} {_color(first)} planes. "
                "Convert it to one RGB image in Fiji (Image > Type > RGB Color)."
            )


def _color(directory: TiffDirectory) -> str:
    return "gray" if directory.samples == 1 else "color"


def _area(directory: TiffDirectory) -> int:
    return directory.size[0] * directory.size[1]


def with_notes(metadata: Metadata, notes: Sequence[str]) -> Metadata:
    """Return metadata with further notes."""
    return replace(metadata, notes=(*metadata.notes, *notes))
