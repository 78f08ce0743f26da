"""The size of a pixel and other metadata of a TIFF, wherever writers record them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from tifffile import RESUNIT

from parfocal.slide.readers.scan import Metadata, mean_mpp
from parfocal.slide.readers.tiff_directories import TiffDirectory

OME_VENDOR = "ome-tiff"
OME_MPP_SOURCE = "PhysicalSizeX and PhysicalSizeY of the OME-XML"
TAGS_MPP_SOURCE = "XResolution and YResolution"
# Microns per unit, by lower-case name. Two characters look like a mu: the micro sign and the Greek
# letter.
MICRONS = {
    **dict.fromkeys(("µm", "μm", "um", "\\u00b5m", "micron", "microns"), 1.0),
    **dict.fromkeys(("micrometer", "micrometers", "micrometre", "micrometres"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "meters", "metre"), 1e6),
    **dict.fromkeys(("inch", "inches", "in"), 25400.0),
    **dict.fromkeys(("å", "angstrom"), 1e-4),
}
TAG_UNITS = {
    RESUNIT.INCH: 25400.0,
    RESUNIT.CENTIMETER: 1e4,
    RESUNIT.MILLIMETER: 1e3,
    RESUNIT.MICROMETER: 1.0,
}
# Dots per inch that a picture is printed with; not those of a scan, if it is no pyramid.
PRINT_DPI = (72, 96, 100, 150, 200, 240, 300, 400, 600, 1200, 2400)
NUMBER = r"([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)"
DESCRIPTION_VENDORS = (
    ("Aperio", "aperio"),
    ("Motic", "motic"),
    ("<PerkinElmer-QPI", "qptiff"),
    ("ImageJ=", "imagej"),
)


@dataclass(frozen=True)
class OmeImage:
    """One image of an OME-TIFF.

    Args:
        name: its name; empty if not recorded.
        size: width and height in pixels.
        planes: number of stored planes: channels of one sample, depths and times.
        described_planes: the planes in words, such as "3 channels (R, G, B)".
        samples: number of samples per pixel of a channel.
        sides: width and height of a pixel in microns; None if not recorded.
        first_directory: position of its first plane among the directories.
        objective_power: nominal magnification of the objective; None if not recorded.
    """

    name: str
    size: tuple[int, int]
    planes: int
    described_planes: str
    samples: int
    sides: tuple[float | None, float | None]
    first_directory: int
    objective_power: str | None = None


def read_metadata(directory: TiffDirectory) -> Metadata:
    """Read the metadata of one image of a TIFF that is no OME-TIFF."""
    description = directory.description
    vendor = "generic-tiff" if directory.is_tiled else "tiff"
    for start, name in DESCRIPTION_VENDORS:
        if description.lstrip().startswith(start):
            vendor = name
    fields = _described(description)
    sides, source = _sides(directory, fields)
    mpp, source = mean_mpp(*sides, source=source)
    return Metadata(
        vendor,
        mpp,
        source if mpp is not None else "",
        objective_power=fields.get("appmag") or fields.get("objectivepower"),
        sides=None if None in sides else (sides[0] or 0.0, sides[1] or 0.0),
    )


def read_ome_images(description: str) -> list[OmeImage]:
    """Read the images that the XML of an OME-TIFF describes.

    Raises:
        ValueError: the XML is damaged.
    """
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError as error:
        raise ValueError(f"its XML is damaged: {error}") from error
    powers = {
        objective.get("ID"): objective.get("NominalMagnification")
        for objective in root.iterfind(".//{*}Objective")
    }
    images, position = [], 0
    for image in root.iterfind("{*}Image"):
        pixels = image.find("{*}Pixels")
        if pixels is not None:
            read = _read_ome_image(image, pixels, position, powers)
            position += read.planes
            images.append(read)
    return images


def ome_metadata(image: OmeImage) -> Metadata:
    """Return the metadata of an image of an OME-TIFF."""
    width, height = image.sides
    mpp, source = mean_mpp(width, height, source=OME_MPP_SOURCE)
    sides = (width, height) if width is not None and height is not None else None
    return Metadata(OME_VENDOR, mpp, source, objective_power=image.objective_power, sides=sides)


def _read_ome_image(
    image: ElementTree.Element,
    pixels: ElementTree.Element,
    position: int,
    powers: dict[str | None, str | None],
) -> OmeImage:
    channels = pixels.findall("{*}Channel")
    samples = int(channels[0].get("SamplesPerPixel", "1")) if channels else 1
    size_c = int(pixels.get("SizeC", "1"))
    if not channels:  # one channel of all samples, as old writers describe RGB
        samples = size_c
    number = max(1, size_c // max(1, samples))
    counts = {"channels": number} | {
        word: int(pixels.get(axis, "1")) for word, axis in (("depths", "SizeZ"), ("times", "SizeT"))
    }
    names = ", ".join(channel.get("Name", "unnamed") for channel in channels)
    planes = counts["channels"] * counts["depths"] * counts["times"]
    described = " and ".join(
        f"{count} {word}" + (f" ({names})" if word == "channels" and names else "")
        for word, count in counts.items()
        if count > 1
    )
    starts = [
        int(data.get("IFD", position))
        for data in pixels.iterfind("{*}TiffData")
        if all(data.get(f"First{axis}", "0") == "0" for axis in "CZT")
    ]
    settings = image.find("{*}ObjectiveSettings")
    return OmeImage(
        name=image.get("Name", ""),
        size=(int(pixels.get("SizeX", "0")), int(pixels.get("SizeY", "0"))),
        planes=planes,
        described_planes=described,
        samples=samples,
        sides=(_ome_side(pixels, "X"), _ome_side(pixels, "Y")),
        first_directory=starts[0] if starts else position,
        objective_power=None if settings is None else powers.get(settings.get("ID")),
    )


def _ome_side(pixels: ElementTree.Element, axis: str) -> float | None:
    """Return the side of a pixel in microns; None if it is missing or not a length."""
    length = pixels.get(f"PhysicalSize{axis}")
    unit = MICRONS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").strip().lower())
    try:
        return None if length is None or unit is None else float(length) * unit
    except ValueError:
        return None


def _sides(
    directory: TiffDirectory, fields: dict[str, str]
) -> tuple[tuple[float | None, float | None], str]:
    """Return width and height of a pixel, and the name of the field that records them.

    A description is written by the scanner; the tags are often those of a print.
    """
    for key, name in (("mpp", "MPP"), ("pixelsizemicrons", "PixelSizeMicrons")):
        if (mpp := _number(fields.get(key))) is not None:
            return (mpp, mpp), f"{name} of the ImageDescription"
    unit = TAG_UNITS.get(directory.page.tags.valueof("ResolutionUnit", RESUNIT.INCH))
    name = TAGS_MPP_SOURCE
    if "imagej" in fields and unit is None:
        unit, name = MICRONS.get(fields.get("unit", "").lower()), "XResolution in ImageJ's unit"
    per_unit = [_rational(directory, axis) for axis in ("XResolution", "YResolution")]
    if unit is None or per_unit == [None, None]:
        return (None, None), ""
    if not directory.is_tiled and unit == TAG_UNITS[RESUNIT.INCH] and per_unit[0] in PRINT_DPI:
        return (None, None), ""
    x, y = (None if value is None else unit / value for value in per_unit)
    return (x, y), name


def _rational(directory: TiffDirectory, tag: str) -> float | None:
    """Return the value of a fraction; None if it is missing, or not a positive number."""
    value = directory.page.tags.valueof(tag)
    if not isinstance(value, tuple) or len(value) != 2 or not all(value):
        return None
    return float(value[0]) / float(value[1])


def _described(description: str) -> dict[str, str]:
    """Read the `name = value` fields and the flat XML elements of a description."""
    fields: dict[str, str] = {}
    for name, value in _pairs(description[: 2**16]):
        fields.setdefault(name.strip().lower().replace(" ", ""), value.strip())
    return fields


def _pairs(description: str) -> Iterator[tuple[str, str]]:
    if description.lstrip().startswith("<"):
        for match in re.finditer(r"<([A-Za-z]\w*)>([^<]*)</\1>", description):
            yield match[1], match[2]
        return
    for part in re.split(r"[|\r\n;]", description):
        name, separator, value = part.partition("=")
        if separator:
            yield name, value


def _number(text: str | None) -> float | None:
    match = re.fullmatch(NUMBER, (text or "").strip())
    try:
        return float(match[1]) if match else None
    except ValueError:
        return None
