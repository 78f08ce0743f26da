"""Write small DICOM slides: a header in explicit little-endian, and uncompressed tiles."""

import struct
from pathlib import Path

import numpy as np

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
UNCOMPRESSED = "1.2.840.10008.1.2.1"
SIDE = 64
LONG = ("OB", "OW", "SQ", "UN")


def element(tag: int, kind: str, value: bytes | str | int) -> bytes:
    """Encode one element of a header."""
    if isinstance(value, int):
        value = struct.pack("<H" if kind == "US" else "<I", value)
    content = value.encode() if isinstance(value, str) else value
    content += (b"\0" if kind in ("UI", "OB", "OW") else b" ") * (len(content) % 2)
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode()
    if kind in LONG:
        return start + struct.pack("<HI", 0, len(content)) + content
    return start + struct.pack("<H", len(content)) + content


def sequence(tag: int, content: bytes) -> bytes:
    """Encode a sequence of one item."""
    return element(tag, "SQ", b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content)


def write_dicom(path: Path, pixels: np.ndarray, *, mpp: float = 0.5, **changed: object) -> Path:
    """Write a level of a slide.

    Args:
        path: the file.
        pixels: RGB pixels.
        mpp: microns per pixel.
        changed: other values of `series`, `syntax`, `photometric`, `rows`, `frames`, `kind`,
            `class_uid`, `data`.
    """
    height, width, _ = pixels.shape
    rows, columns = -(-height // SIDE), -(-width // SIDE)
    padding = ((0, rows * SIDE - height), (0, columns * SIDE - width), (0, 0))
    padded = np.pad(pixels, padding, mode="edge")
    tiles = padded.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
    values = {
        "series": "1.2.3.4",
        "syntax": UNCOMPRESSED,
        "photometric": "RGB",
        "rows": SIDE,
        "frames": rows * columns,
        "kind": "ORIGINAL\\PRIMARY\\VOLUME\\NONE",
        "class_uid": WHOLE_SLIDE,
        "data": tiles.tobytes(),
        **changed,
    }
    instance = f"1.2.3.5.{abs(hash(path.name)) % 10**9}"
    spacing = f"{mpp / 1000:.6g}\\{mpp / 1000:.6g}"
    meta = element(0x00020001, "OB", b"\0\1") + b"".join(
        element(tag, "UI", str(value))
        for tag, value in (
            (0x00020002, values["class_uid"]),
            (0x00020003, instance),
            (0x00020010, values["syntax"]),
            (0x00020012, "1.2.3"),
        )
    )
    body = [
        element(0x00080008, "CS", values["kind"]),
        element(0x00080016, "UI", values["class_uid"]),
        element(0x00080018, "UI", instance),
        element(0x00080060, "CS", "SM"),
        element(0x0020000D, "UI", "1.2.3.6"),
        element(0x0020000E, "UI", values["series"]),
        element(0x00200052, "UI", "1.2.3.7"),
        element(0x00209311, "CS", "TILED_FULL"),
        element(0x00280002, "US", 3),
        element(0x00280004, "CS", values["photometric"]),
        element(0x00280006, "US", 0),
        element(0x00280008, "IS", str(values["frames"])),
        element(0x00280010, "US", values["rows"]),
        element(0x00280011, "US", SIDE),
        element(0x00280100, "US", 8),
        element(0x00280101, "US", 8),
        element(0x00280102, "US", 7),
        element(0x00280103, "US", 0),
        element(0x00480006, "UL", width),
        element(0x00480007, "UL", height),
        element(0x00480303, "UL", 1),
        sequence(0x52009229, sequence(0x00289110, element(0x00280030, "DS", spacing))),
        element(0x7FE00010, "OB", values["data"]),
    ]
    group = element(0x00020000, "UL", len(meta))
    path.write_bytes(bytes(128) + b"DICM" + group + meta + b"".join(body))
    return path
