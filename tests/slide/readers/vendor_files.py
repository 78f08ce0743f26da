"""Write small slides of formats that consist of several files or segments: MIRAX, VMS, VMU, CZI."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64  # of a tile
MPP = 0.5
SLIDE_ID = "ABCDEF0123456789ABCDEF0123456789"
LEVELS = 3


def paint(width: int = 384, height: int = 256) -> np.ndarray:
    """Return pixels in random blocks of 8 px, none of them white."""
    shape = height // 8, width // 8, 3
    blocks = np.random.default_rng(0).integers(60, 200, shape, dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def jpeg(pixels: np.ndarray, **options: int) -> bytes:
    """Encode pixels as JPEG."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=95, subsampling=0, **options)
    return encoded.getvalue()


# --- MIRAX ---


def write_mirax(path: Path, pixels: np.ndarray) -> Path:
    """Write a MIRAX slide of three levels, whose sides are whole tiles at level 0."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    path.write_bytes(jpeg(pixels[:32, :32]))
    columns, rows = pixels.shape[1] // SIDE, pixels.shape[0] // SIDE
    content, levels = b"", []
    for level in range(LEVELS):
        step, entries = 2**level, []
        for y in range(0, rows, step):
            for x in range(0, columns, step):
                tile = _tile(pixels[::step, ::step], x // step, y // step)
                entries.append((y * columns + x, len(content), len(tile), 0))
                content += tile
        levels.append(entries)
    (folder / "Data0000.dat").write_bytes(content)
    (folder / "Index.dat").write_bytes(mirax_index(levels))
    (folder / "Slidedat.ini").write_text(mirax_ini(columns, rows), encoding="utf-8-sig")
    return path


def mirax_index(levels: list[list[tuple[int, int, int, int]]]) -> bytes:
    """Return an index of tiles: number, offset, length and file of each, by level."""
    start = b"01.02" + SLIDE_ID.encode()
    root = len(start) + 8
    place = root + 4 * len(levels)
    pointers, pages = [], b""
    for entries in levels:
        pointers.append(place + len(pages))
        pages += struct.pack("<ii", 0, place + len(pages) + 8)
        pages += struct.pack("<ii", len(entries), 0)
        pages += b"".join(struct.pack("<4i", *entry) for entry in entries)
    return start + struct.pack(f"<ii{len(levels)}i", root, 0, *pointers) + pages


def mirax_ini(columns: int, rows: int) -> str:
    """Return the text of Slidedat.ini."""
    sections = [f"LAYER_0_LEVEL_{level}_SECTION" for level in range(LEVELS)]
    lines = [
        *("[GENERAL]", f"SLIDE_ID = {SLIDE_ID}", "OBJECTIVE_MAGNIFICATION = 20"),
        *(f"IMAGENUMBER_X = {columns}", f"IMAGENUMBER_Y = {rows}"),
        *("[HIERARCHICAL]", "HIER_COUNT = 1", "NONHIER_COUNT = 0", "INDEXFILE = Index.dat"),
        *("HIER_0_NAME = Slide zoom level", f"HIER_0_COUNT = {LEVELS}"),
        *(f"HIER_0_VAL_{level}_SECTION = {name}" for level, name in enumerate(sections)),
        *("[DATAFILE]", "FILE_COUNT = 1", "FILE_0 = Data0000.dat"),
    ]
    for level, name in enumerate(sections):
        lines += [
            *(f"[{name}]", "OVERLAP_X = 0", "OVERLAP_Y = 0", "IMAGE_FORMAT = JPEG"),
            *(f"MICROMETER_PER_PIXEL_{axis} = {MPP * 2**level}" for axis in "XY"),
            *(f"DIGITIZER_{side} = {SIDE}" for side in ("WIDTH", "HEIGHT")),
            *("IMAGE_FILL_COLOR_BGR = 16777215", f"IMAGE_CONCAT_FACTOR = {int(level > 0)}"),
        ]
    return "\r\n".join(lines)


def _tile(pixels: np.ndarray, column: int, row: int) -> bytes:
    tile = pixels[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
    padding = ((0, SIDE - tile.shape[0]), (0, SIDE - tile.shape[1]), (0, 0))
    return jpeg(np.pad(tile, padding, mode="edge"))


# --- Hamamatsu ---


def write_vms(path: Path, pixels: np.ndarray) -> Path:
    """Write a VMS slide of one JPEG image, and a map of it."""
    for name, shown in ((f"{path.stem}.jpg", pixels), (f"{path.stem}_map.jpg", pixels[::4, ::4])):
        image = np.ascontiguousarray(shown)
        (path.parent / name).write_bytes(jpeg(image, restart_marker_rows=1))
    nanometers = [round(side * MPP * 1000) for side in pixels.shape[1::-1]]
    lines = [
        *("[Virtual Microscope Specimen]", "NoLayers=1", "NoJpegColumns=1", "NoJpegRows=1"),
        *(f"ImageFile={path.stem}.jpg", f"MapFile={path.stem}_map.jpg", "SourceLens=20"),
        *(f"PhysicalWidth={nanometers[0]}", f"PhysicalHeight={nanometers[1]}"),
    ]
    path.write_text("\n".join(lines))
    return path


def write_vmu(path: Path, pixels: np.ndarray) -> Path:
    """Write a VMU slide of one uncompressed image, and a map of it."""
    for name, shown in ((f"{path.stem}.ngr", pixels), (f"{path.stem}_map.ngr", pixels[::4, ::4])):
        height, width, _ = shown.shape
        head = struct.pack("<2sHiii8si", b"GN", 0, width, height, width, bytes(8), 32)
        values = (shown.astype("<u2") << 4).tobytes()  # 12 bits
        (path.parent / name).write_bytes(head.ljust(32, b"\0") + values)
    nanometers = [round(side * MPP * 1000) for side in pixels.shape[1::-1]]
    lines = [
        *("[Uncompressed Virtual Microscope Specimen]", "BitsPerPixel=36", "PixelOrder=RGB"),
        *(f"ImageFile={path.stem}.ngr", f"MapFile={path.stem}_map.ngr", "SourceLens=20"),
        *(f"PhysicalWidth={nanometers[0]}", f"PhysicalHeight={nanometers[1]}"),
    ]
    path.write_text("\n".join(lines))
    return path


# --- Zeiss ---


def write_czi(path: Path, pixels: np.ndarray) -> Path:
    """Write an uncompressed CZI file of two levels."""
    height, width, _ = pixels.shape
    body, entries = b"", []
    header_bytes = 32 + 512
    for number, (box, stored) in enumerate(_czi_tiles(pixels)):
        entries.append(czi_entry(header_bytes + len(body), number, box, stored.shape[1::-1]))
        content = np.ascontiguousarray(stored[..., ::-1]).tobytes()  # BGR
        start = struct.pack("<iiq", 0, 0, len(content)) + entries[-1]
        body += _segment(b"ZISRAWSUBBLOCK", start.ljust(256, b"\0") + content)
    metadata_at = header_bytes + len(body)
    xml = _czi_metadata(width, height).encode()
    body += _segment(b"ZISRAWMETADATA", struct.pack("<i252x", len(xml)) + xml)
    directory_at = header_bytes + len(body)
    listed = struct.pack("<i124x", len(entries)) + b"".join(entries)
    body += _segment(b"ZISRAWDIRECTORY", listed)
    attachments_at = header_bytes + len(body)
    body += _segment(b"ZISRAWATTDIR", struct.pack("<i252x", 0))
    guid = b"g" * 16
    header = struct.pack(
        "<4i16s16siqqiq",
        *(1, 0, 0, 0, guid, guid, 0, directory_at, metadata_at, 0, attachments_at),
    )
    path.write_bytes(_segment(b"ZISRAWFILE", header.ljust(512, b"\0")) + body)
    return path


def czi_entry(
    position: int, number: int, box: tuple[int, int, int, int], stored: tuple[int, ...]
) -> bytes:
    """Return the entry of a tile: its box in level-0 pixels, and its stored width and height."""
    x, y, width, height = box
    dimensions = (
        *((b"X", x, width, stored[0]), (b"Y", y, height, stored[1])),
        *((b"C", 0, 1, 1), (b"M", number, 1, 1), (b"S", 0, 1, 1)),
    )
    is_reduced = int(stored[0] < width)
    entry = struct.pack("<2siqiib5xi", b"DV", 3, position, 0, 0, is_reduced, len(dimensions))
    return entry + b"".join(
        struct.pack("<4siifi", name, start, size, 0.0, kept)
        for name, start, size, kept in dimensions
    )


def _czi_tiles(pixels: np.ndarray) -> Iterator[tuple[tuple[int, int, int, int], np.ndarray]]:
    height, width, _ = pixels.shape
    for y in range(0, height, 2 * SIDE):
        for x in range(0, width, 2 * SIDE):
            tile = pixels[y : y + 2 * SIDE, x : x + 2 * SIDE]
            yield (x, y, tile.shape[1], tile.shape[0]), tile
    yield (0, 0, width, height), pixels[::2, ::2]


def _segment(name: bytes, content: bytes) -> bytes:
    padding = bytes(-len(content) % 32)
    start = struct.pack("<16sqq", name, len(content) + len(padding), len(content))
    return start + content + padding


def _czi_metadata(width: int, height: int) -> str:
    meters = "".join(
        f'<Distance Id="{axis}"><Value>{MPP * 1e-6}</Value></Distance>' for axis in "XY"
    )
    size = f"<SizeX>{width}</SizeX><SizeY>{height}</SizeY><PixelType>Bgr24</PixelType>"
    image = f"<Information><Image>{size}</Image></Information>"
    scaling = f"<Scaling><Items>{meters}</Items></Scaling>"
    return f"<ImageDocument><Metadata>{image}{scaling}</Metadata></ImageDocument>"
