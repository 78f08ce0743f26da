"""Damage slides of every kind, read them, and count what is noticed.

python benchmarks/damage.py                       # painted slides
python benchmarks/damage.py --data ../shared/data # real ones as well

Each case is read in a child process with a limit of time and of memory. A child reads several
cases; after a crash or a hang another one goes on with the next case. A case is

    right      pixels and resolution are those of the whole file, or of the part that is read
    refused    a SlideError
    different  other pixels or another resolution, without an error
    white      a whole tile is white without an error, on a slide without white tiles
    hang       not finished in time
    crash      the process ended
    foreign    any other exception

The last four are errors: the exit code is 1 if there are any. MIRAX and CZI leave out tiles where
there is nothing, so that a missing tile is like a blank one: it counts as different. Of
slides of several files, each file is damaged in turn.
"""

import argparse
import json
import resource
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from parfocal.slide import Box, SlideError, open_slide

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.slide.readers.dicom_files import write_dicom, write_jpeg_dicom
from tests.slide.readers.vendor_files import (
    write_czi,
    write_mirax,
    write_vms,
    write_vmu,
)

SIDE, TILE = 512, 64
READ_PX = 1536  # side of the square that is read of level 0
MPP = 0.5
TIME_LIMIT_S = 30.0
MEMORY_LIMIT = 4 * 2**30
ERRORS = ("white", "hang", "crash", "foreign")
OUTCOMES = ("right", "refused", "different", *ERRORS)
APERIO = f"Aperio Image Library v11.2.1\r\n{SIDE}x{SIDE}|AppMag = 20|MPP = {MPP}"
REAL = (
    *("slides/CMU-1-Small-Region.svs", "slides/tcga-cr-7395-01a-01-ts1.svs"),
    *("slides/test3-DAPI-2-387.ndpi", "slides/OS-1-detail.ome.tif"),
    *("slides/camelyon16-multiframe.dcm", "slides/idc-14306.tif"),
    *("prostate/08b1c6fbb511.tif", "../cases/dicom-series/level-2.dcm"),
)
SPARSE = (".mrxs", ".czi")
Damage = Callable[[bytearray, np.random.Generator, "Layout"], None]


@dataclass(frozen=True)
class Layout:
    """Where a TIFF keeps what is damaged on purpose; empty lists for other files.

    Args:
        entries: position of each entry of a directory.
        entry_bytes: length of an entry.
        offsets: positions of the values of tile offsets and lengths, with their size in bytes.
        order: byte order.
    """

    entries: list[int]
    entry_bytes: int
    offsets: list[tuple[int, int]]
    byte_counts: list[tuple[int, int]]
    order: str


# --- the slides ---


def paint() -> np.ndarray:
    """Return stained-looking pixels, none of them white, in blocks that JPEG preserves."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(60, 200, (SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


def write_slides(folder: Path) -> list[Path]:
    """Write one small slide of each kind."""
    pixels, files = paint(), []
    resolution = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}

    def write(name: str, *, container: dict[str, object] | None = None, **options: object) -> None:
        path = folder / name
        with tifffile.TiffWriter(path, **(container or {})) as tiff:
            for step in (1, 2, 4):
                defaults = {"tile": (TILE, TILE), "photometric": "rgb", "metadata": None}
                defaults |= {"subfiletype": int(step > 1), **resolution}
                tiff.write(pixels[::step, ::step], **{**defaults, **options})
        files.append(path)

    write("plain-jpeg.tif", compression="jpeg")
    write("plain-lzw.tif", compression="lzw", predictor=True)
    write("raw.tif")
    write("big-deflate.tif", container={"bigtiff": True}, compression="deflate")
    write("big-endian-jpeg.tif", container={"byteorder": ">"}, compression="jpeg")
    write("aperio-jpeg.svs", compression="jpeg", description=APERIO, subfiletype=0)
    write("aperio-jpeg2000.svs", compression=33005, description=APERIO, subfiletype=0)
    write("strips-deflate.tif", tile=None, rowsperstrip=32, compression="deflate")
    files += [_write_ome(folder / "ome.ome.tif", pixels)]
    for name in ("photo.jpg", "photo.png"):
        Image.fromarray(pixels).save(folder / name)
        files.append(folder / name)
    return files + _write_vendors(folder, pixels)


def _write_vendors(folder: Path, pixels: np.ndarray) -> list[Path]:
    """Write slides of other formats, each in a folder of its own."""
    files = []
    for name, write in (
        ("dicom-jpeg.dcm", write_jpeg_dicom),
        ("dicom-raw.dcm", write_dicom),
        ("mirax.mrxs", write_mirax),
        ("vms.vms", write_vms),
        ("vmu.vmu", write_vmu),
        ("czi.czi", write_czi),
    ):
        path = folder / Path(name).stem / name
        path.parent.mkdir()
        files.append(write(path, pixels))
    return files


def parts_of(path: Path) -> list[Path]:
    """Return the files of a slide, relative to its folder."""
    if path.suffix not in (".mrxs", ".vms", ".vmu"):
        return [Path(path.name)]
    files = (each for each in path.parent.rglob("*") if each.is_file())
    return sorted(each.relative_to(path.parent) for each in files)


def _write_ome(path: Path, pixels: np.ndarray) -> Path:
    options = {"tile": (TILE, TILE), "photometric": "rgb", "compression": "jpeg"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        sizes = {"axes": "YXS", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
        tiff.write(pixels, subifds=1, metadata=sizes, **options)
        tiff.write(pixels[::2, ::2], subfiletype=1, **options)
    return path


# --- the damage ---


def truncate(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    del content[int(generator.integers(1, len(content))) :]


def flip_anywhere(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    _flip(content, int(generator.integers(len(content))), generator)


def flip_many(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    for _ in range(64):
        flip_anywhere(content, generator, layout)


def flip_directory(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    """Flip a bit of a directory entry; of the first 2 kB if the file is no TIFF."""
    if not layout.entries:
        _flip(content, int(generator.integers(min(2048, len(content)))), generator)
        return
    entry = int(generator.choice(layout.entries))
    _flip(content, entry + int(generator.integers(layout.entry_bytes)), generator)


def flip_offset(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    position, size = _pick(layout.offsets + layout.byte_counts, generator, content)
    _flip(content, position + int(generator.integers(size)), generator)


def swap_offsets(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    (first, size), (second, _) = (_pick(layout.offsets, generator, content) for _ in range(2))
    one, two = content[first : first + size], content[second : second + size]
    content[first : first + size], content[second : second + size] = two, one


def zero_offsets(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    for _ in range(int(generator.integers(1, 8))):
        position, size = _pick(layout.offsets, generator, content)
        content[position : position + size] = bytes(size)


def drop_tiles(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    """Set the offsets and the lengths of some or all tiles to zero, as an interrupted writer."""
    count = len(layout.offsets)
    keep = int(generator.integers(0, max(1, count)))
    for number in range(keep, count):
        for values in (layout.offsets, layout.byte_counts):
            position, size = values[number]
            content[position : position + size] = bytes(size)


def change_type(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    """Change the type of an entry: its values are read as others."""
    if layout.entries:
        entry = int(generator.choice(layout.entries))
        order = "little" if layout.order == "<" else "big"
        kind = int(generator.choice([1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 16, 99]))
        content[entry + 2 : entry + 4] = kind.to_bytes(2, order)
    else:
        flip_directory(content, generator, layout)


def change_count(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    """Change the number of values of an entry."""
    if layout.entries:
        entry = int(generator.choice(layout.entries))
        order = "little" if layout.order == "<" else "big"
        count = int(generator.choice([0, 1, 2, 3, 17, 2**16, 2**31 - 1]))
        content[entry + 4 : entry + 8] = count.to_bytes(4, order)
    else:
        flip_directory(content, generator, layout)


def erase_block(content: bytearray, generator: np.random.Generator, layout: Layout) -> None:
    start = int(generator.integers(len(content)))
    length = min(len(content) - start, int(generator.integers(16, 4096)))
    content[start : start + length] = bytes(length)


DAMAGES: tuple[Damage, ...] = (
    *(truncate, flip_anywhere, flip_many, flip_directory, flip_offset, swap_offsets),
    *(zero_offsets, drop_tiles, change_type, change_count, erase_block),
)


def _flip(content: bytearray, position: int, generator: np.random.Generator) -> None:
    content[position] ^= 1 << int(generator.integers(8))


def _pick(
    values: list[tuple[int, int]], generator: np.random.Generator, content: bytearray
) -> tuple[int, int]:
    if not values:
        return int(generator.integers(len(content) - 4)), 4
    return values[int(generator.integers(len(values)))]


def read_layout(path: Path) -> Layout:
    """Find what is damaged on purpose in a TIFF."""
    try:
        with tifffile.TiffFile(path) as tiff:
            entries: list[int] = []
            found: dict[str, list[tuple[int, int]]] = defaultdict(list)
            pages = [page.aspage() for page in tiff.pages]
            pages += [below.aspage() for page in pages for below in page.pages or ()]
            for page in pages:
                for tag in page.tags.values():
                    entries.append(tag.offset)
                    kind = tag.name[-7:].lower() if "Offset" in tag.name else "counts"
                    if tag.name in ("TileOffsets", "StripOffsets"):
                        kind = "offsets"
                    elif tag.name not in ("TileByteCounts", "StripByteCounts"):
                        continue
                    size = {3: 2, 4: 4, 16: 8}.get(int(tag.dtype), 4)
                    places = range(tag.valueoffset, tag.valueoffset + size * tag.count, size)
                    found[kind] += [(place, size) for place in places]
            entry_bytes = 20 if tiff.is_bigtiff else 12
            return Layout(entries, entry_bytes, found["offsets"], found["counts"], tiff.byteorder)
    except tifffile.TiffFileError:
        return Layout([], 0, [], [], "<")


def write_case(source: Path, number: int, target: Path) -> str:
    """Write a damaged copy of a file and return the kind of damage."""
    damage, parts = DAMAGES[number % len(DAMAGES)], parts_of(source)
    for part in parts:
        (target.parent / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source.parent / part, target.parent / part)
    damaged = target.parent / parts[number // len(DAMAGES) % len(parts)]
    content = bytearray(damaged.read_bytes())
    damage(content, np.random.default_rng(number), read_layout(damaged))
    damaged.write_bytes(content)
    return damage.__name__


# --- reading ---


def read(path: Path) -> tuple[list[np.ndarray], float]:
    """Return a square of level 0 and the whole of every smaller level, and the resolution."""
    given = MPP if path.suffix in (".jpg", ".png") or "tcga" in path.name else None
    with open_slide(path, mpp=given) as slide:
        side = min(READ_PX, *slide.size)
        pictures = [slide.read(Box(0, 0, side, side), slide.mpp)]
        for level in slide.levels[1:]:
            if max(level.width, level.height) <= READ_PX:
                pictures.append(slide.read(Box(0, 0, *slide.size), slide.mpp * level.downsample))
        return pictures, slide.mpp


def judge(path: Path, whole: Path) -> tuple[str, int]:
    """Read a damaged file and compare it with the whole one; return the number of other pixels."""
    expected, expected_mpp = read(whole)
    try:
        pictures, mpp = read(path)
    except SlideError:
        return "refused", 0
    except BaseException as error:
        return f"foreign {error!r}"[:200], 0
    if [p.shape for p in pictures] != [p.shape for p in expected] or mpp != expected_mpp:
        return "different", sum(p.shape[0] * p.shape[1] for p in expected)
    changed = [(a != b).any(axis=2) for a, b in zip(pictures, expected, strict=True)]
    # A white tile of a slide that has one may be that of another place.
    is_stained = whole.suffix not in SPARSE and not any(
        _has_white_tile(p, np.ones(p.shape[:2], bool)) for p in expected
    )
    whites = (_has_white_tile(a, c) for a, c in zip(pictures, changed, strict=True))
    if is_stained and any(whites):
        return "white", sum(int(c.sum()) for c in changed)
    count = sum(int(c.sum()) for c in changed)
    return ("different", count) if count else ("right", 0)


def _has_white_tile(pixels: np.ndarray, changed: np.ndarray) -> bool:
    """Return whether a whole tile is white that is not."""
    rows, columns = (side // TILE * TILE for side in changed.shape)
    white = changed & (pixels == 255).all(axis=2)
    blocks = white[:rows, :columns].reshape(rows // TILE, TILE, columns // TILE, TILE)
    return bool(blocks.all(axis=(1, 3)).any())


def child() -> None:
    """Read the cases that are named on standard input, and answer each on one line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", flush=True)  # the time to start is not the time to read
    for line in sys.stdin:
        source, number, folder = json.loads(line)
        target = Path(folder) / Path(source).name
        kind = write_case(Path(source), number, target)
        outcome, count = judge(target, Path(source))
        print(json.dumps([kind, outcome, count]), flush=True)


class Children:
    """A child process, which is replaced when it crashes or hangs."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def judge(self, source: Path, number: int, folder: Path) -> tuple[str, str, int]:
        """Return the kind of damage, the outcome, and the number of other pixels."""
        kind = DAMAGES[number % len(DAMAGES)].__name__
        if self._child is None:
            command = [sys.executable, __file__, "--child"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._child = subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes)
            assert self._child.stdout
            self._child.stdout.readline()
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write(json.dumps([str(source), number, str(folder)]) + "\n")
        self._child.stdin.flush()
        ready, _, _ = select.select([self._child.stdout], [], [], TIME_LIMIT_S)
        line = self._child.stdout.readline() if ready else ""
        if line:
            kind, outcome, count = json.loads(line)
            return kind, outcome, count
        self.close()
        return kind, "crash" if ready else "hang", 0

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
        self._child = None


def run(sources: list[Path], cases: int, folder: Path) -> Iterator[tuple[Path, int, str, str, int]]:
    """Judge a number of cases of each file."""
    children = Children()
    for source in sources:
        # Neighbors would be read as parts of a DICOM series.
        for number in range(cases):
            place = folder / "damaged" / source.stem
            shutil.rmtree(place, ignore_errors=True)
            yield source, number, *children.judge(source, number, place)
    children.close()


def main() -> int:
    """Print a table of the outcomes of each file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="folder of real slides")
    parser.add_argument("--cases", type=int, default=66, help="damaged copies of each file")
    parser.add_argument("--only", help="part of the names of the files to damage")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child()
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "whole").mkdir()
        sources = write_slides(folder / "whole")
        if arguments.data:
            real = [arguments.data / name for name in REAL]
            for path in (path for path in real if path.exists()):
                place = folder / "real" / path.stem / path.name
                place.parent.mkdir(parents=True)
                sources.append(Path(shutil.copy(path, place)))
        sources = [path for path in sources if (arguments.only or "") in path.name]
        table: dict[str, Counter[str]] = defaultdict(Counter)
        pixels: dict[str, list[int]] = defaultdict(list)
        for source, number, kind, outcome, count in run(sources, arguments.cases, folder):
            word = outcome.split()[0]
            table[source.name][word] += 1
            if word == "different":
                pixels[source.name].append(count)
            if word in ERRORS:
                print(f"{source.name} {number} {kind}: {outcome}", file=sys.stderr, flush=True)
            elif word == "different":
                print(f"{source.name} {number} {kind}: {count} px", file=sys.stderr, flush=True)
    return _print_table(table, pixels)


def _print_table(table: dict[str, Counter[str]], pixels: dict[str, list[int]]) -> int:
    print("| file | " + " | ".join(OUTCOMES) + " | pixels of a different one, median and most |")
    print("|" + "---|" * (len(OUTCOMES) + 2))
    for name, counts in table.items():
        numbers = " | ".join(str(counts[outcome]) for outcome in OUTCOMES)
        changed = pixels[name]
        extent = f"{int(np.median(changed))}, {max(changed)}" if changed else ""
        print(f"| {name} | {numbers} | {extent} |")
    total = sum(table.values(), Counter())
    print("| all | " + " | ".join(str(total[outcome]) for outcome in OUTCOMES) + " | |")
    return int(any(total[outcome] for outcome in ERRORS))


if __name__ == "__main__":
    sys.exit(main())
