"""Build the header of a DICOM instance from the JSON that a DICOMweb server sends.

Source: DICOM PS3.18, annex F (DICOM JSON model).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.slide.errors import SlideError
from parfocal.slide.readers.dicom_header import DicomHeader, PixelData

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
ON_SERVER = PixelData(position=0, length=None, offsets=None, lengths=None)


def header_from_json(name: str, attributes: Mapping[str, Any]) -> DicomHeader:
    """Return the header of an instance.

    The transfer syntax is that of JPEG frames if the server does not say another.

    Args:
        name: name of the instance.
        attributes: its attributes in the DICOM JSON model, by tag, such as "00280010".

    Raises:
        SlideError: an attribute is damaged.
    """
    try:
        return _header(attributes)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise SlideError(
            f"{name}: the metadata of this DICOM instance is damaged ({error}). Ask the owner of "
            "the server."
        ) from error


def _header(attributes: Mapping[str, Any]) -> DicomHeader:
    measures = _item(_item(attributes, "52009229"), "00289110")
    spacing = [float(each) for each in _values(measures, "00280030")]  # rows, columns; millimeters
    volume = [_float(attributes, tag) for tag in ("00480001", "00480002")]
    power = _values(_item(attributes, "00480105"), "00480112")
    tile_size = _number(attributes, "00280011"), _number(attributes, "00280010")
    return DicomHeader(
        class_uid=_text(attributes, "00080016"),
        meta_class_uid="",
        series_uid=_text(attributes, "0020000E"),
        syntax_uid=_text(attributes, "00083002") or JPEG_BASELINE,
        image_type=tuple(str(part) for part in _values(attributes, "00080008")),
        tile_size=tile_size,
        size=(
            _number(attributes, "00480006") or tile_size[0],
            _number(attributes, "00480007") or tile_size[1],
        ),
        frames=_number(attributes, "00280008", 1),
        photometric=_text(attributes, "00280004"),
        samples=_number(attributes, "00280002"),
        bits=(_number(attributes, "00280100"), _number(attributes, "00280101")),
        planes=_number(attributes, "00480303", 1),
        paths=_number(attributes, "00480302", 1),
        sides_um=(1e3 * spacing[1], 1e3 * spacing[0]) if len(spacing) == 2 else None,
        volume_um=(1e3 * volume[0], 1e3 * volume[1]) if all(volume) else None,
        objective_power=f"{float(power[0]):g}" if power else None,
        is_tiled_full=_text(attributes, "00209311") == "TILED_FULL",
        is_part=bool(_text(attributes, "00209161")),
        pixels=ON_SERVER,
    )


def _values(attributes: Mapping[str, Any], tag: str) -> Sequence[Any]:
    found = attributes.get(tag, {}).get("Value", [])
    if not isinstance(found, list):
        raise TypeError(f"{tag} has no list of values")
    return [value for value in found if value is not None]


def _text(attributes: Mapping[str, Any], tag: str) -> str:
    return str(next(iter(_values(attributes, tag)), "")).strip()


def _number(attributes: Mapping[str, Any], tag: str, default: int = 0) -> int:
    return int(next(iter(_values(attributes, tag)), default))


def _float(attributes: Mapping[str, Any], tag: str) -> float:
    return float(next(iter(_values(attributes, tag)), 0.0))


def _item(attributes: Mapping[str, Any], tag: str) -> Mapping[str, Any]:
    """Return the first item of a sequence; empty if there is none."""
    found: Any = next(iter(_values(attributes, tag)), {})
    if not isinstance(found, dict):
        raise TypeError(f"{tag} is no sequence")
    return found
