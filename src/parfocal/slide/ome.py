"""What an OME-TIFF says about itself, in the XML of its first page."""

from xml.etree import ElementTree

from parfocal.slide.scan import Record, mean_mpp

VENDOR = "ome-tiff"
SOURCE = "PhysicalSizeX and PhysicalSizeY of the OME-XML"
MICRONS = {"µm": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}  # either letter mu


def ome_record(description: str) -> Record | None:
    """Take down what the XML says; None where it is damaged, or tells of several planes."""
    try:
        pixels = ElementTree.fromstring(description).find(".//{*}Pixels")
    except ElementTree.ParseError:
        return None
    # Depths and times are pages of their own; to read the first alone would be to guess.
    if pixels is None or any(pixels.get(axis, "1") != "1" for axis in ("SizeZ", "SizeT")):
        return None
    mpp, source = mean_mpp(*(_side(pixels, axis) for axis in "XY"), source=SOURCE)
    return Record(VENDOR, mpp, source)


def _side(pixels: ElementTree.Element, axis: str) -> float | None:
    """Give a side of a pixel in microns, where it is a length."""
    length = pixels.get(f"PhysicalSize{axis}")
    unit = MICRONS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    try:
        return None if length is None or unit is None else float(length) * unit
    except ValueError:
        return None
