"""Write small DICOM slides: a header in explicit little-endian, and tiles, raw or as JPEG."""

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
UNCOMPRESSED = "1.2.840.10008.1.2.1"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
ITEM = b"\xfe\xff\x00\xe0"
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
            `class_uid`, `data`, `paths` (number of optical paths), `spacing`, `meta_class`
            (`class_uid` in the first elements alone), and `encapsulated`, the items of frames that
            are not raw.
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
        "paths": 1,
        "spacing": f"{mpp / 1000:.6g}\\{mpp / 1000:.6g}",
        "encapsulated": None,
        **changed,
    }
    instance = f"1.2.3.5.{zlib.crc32(path.name.encode())}"
    meta = element(0x00020001, "OB", b"\0\1") + b"".join(
        element(tag, "UI", str(value))
        for tag, value in (
            (0x00020002, values.get("meta_class", values["class_uid"])),
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
        element(0x00480302, "UL", values["paths"]),
        element(0x00480303, "UL", 1),
        sequence(0x52009229, sequence(0x00289110, element(0x00280030, "DS", values["spacing"]))),
    ]
    if values["encapsulated"] is None:
        body.append(element(0x7FE00010, "OB", values["data"]))
    else:
        body.append(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
        body.append(values["encapsulated"])
    group = element(0x00020000, "UL", len(meta))
    path.write_bytes(bytes(128) + b"DICM" + group + meta + b"".join(body))
    return path


def write_jpeg_dicom(
    path: Path, pixels: np.ndarray, *, mpp: float = 0.5, **changed: object
) -> Path:
    """Write a level whose frames are JPEG images.

    Args:
        path: the file.
        pixels: RGB pixels.
        mpp: microns per pixel.
        changed: see `write_dicom`; and `table`, whether there is a table of offsets, and `frame`, a
            function that changes each encoded frame.
    """
    has_table, change = changed.pop("table", True), changed.pop("frame", bytes)
    assert callable(change)
    height, width, _ = pixels.shape
    padding = ((0, -height % SIDE), (0, -width % SIDE), (0, 0))
    padded = np.pad(pixels, padding, mode="edge")
    is_rgb = changed.get("photometric") == "RGB"
    frames = []
    for y in range(0, height, SIDE):
        for x in range(0, width, SIDE):
            tile = np.ascontiguousarray(padded[y : y + SIDE, x : x + SIDE])
            colors = "RGB" if is_rgb else "YCBCR"
            encoded = imagecodecs.jpeg8_encode(
                tile, level=90, colorspace="RGB", outcolorspace=colors, subsampling="444"
            )
            frames.append(change(encoded))
    values = {"syntax": JPEG_BASELINE, "photometric": "YBR_FULL_422", **changed}
    return write_dicom(
        path, pixels, mpp=mpp, **values, encapsulated=encapsulate(frames, has_table=bool(has_table))
    )


def encapsulate(frames: list[bytes], *, has_table: bool = True) -> bytes:
    """Return frames as items, after a table of their offsets, which may be empty."""
    padded = [frame + bytes(len(frame) % 2) for frame in frames]
    starts, position = [], 0
    for frame in padded:
        starts.append(position)
        position += 8 + len(frame)
    table = struct.pack(f"<{len(starts)}I", *starts) if has_table else b""
    items = b"".join(ITEM + struct.pack("<I", len(part)) + part for part in (table, *padded))
    return items + b"\xfe\xff\xdd\xe0" + bytes(4)
