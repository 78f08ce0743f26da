"""Slide, Box, open_slide: a slide file -> pixels at a requested mpp.

A `Scan` is what a file format offers: stored levels and their pixels. `Slide` is the one place
that turns those into pixels at true microns per pixel, so every format is read alike.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from parfocal.cost import CostMeter, Stage
from parfocal.slide.array import ArrayScan, open_image
from parfocal.slide.errors import ImplausibleMppError, MissingMppError, SlideError
from parfocal.slide.openslide import OpenSlideScan, dicom_instance
from parfocal.slide.resolution import MAX_MPP, MIN_MPP, near, sharper_than_the_scan
from parfocal.slide.scan import Level, Scan
from parfocal.slide.shrink import LEVEL_TOLERANCE, Span, shrink, shrink_whole
from parfocal.slide.tiled import open_tiled

SHOWN_PX = 480  # longer side of a slide in a notebook


@dataclass(frozen=True)
class Box:
    """A region in level-0 pixels, (x, y) its top-left corner; it may leave the scan."""

    x: float
    y: float
    width: float
    height: float


class Slide:
    """A scanned slide: pixels at a requested resolution, billed.

    It may be shared by threads, used after a fork, and sent to another process, where it is
    opened anew with a bill of its own.

    Args:
        scan: the open file.
        name: what errors call it; its id.
        mpp: microns per level-0 pixel.
        mpp_source: who says so.
        path: the file; None for an array.
        bill: where the cost is written.
        reopen: opens the same slide again, in another process.
    """

    def __init__(
        self,
        scan: Scan,
        name: str,
        *,
        mpp: float,
        mpp_source: str,
        path: Path | None,
        bill: CostMeter,
        reopen: "Callable[[], Slide]",
    ) -> None:
        self.id = name
        self.mpp = mpp
        self.mpp_source = mpp_source
        self.path = path
        self.bill = bill
        self.levels: tuple[Level, ...] = scan.levels
        self.vendor = scan.record.vendor
        self.objective_power = scan.record.objective_power
        self._scan = scan
        self._reopen = reopen
        self._closed = False

    @property
    def name(self) -> str:
        """What messages call it: as its file is called, or its id where there is no file."""
        return self.id if self.path is None else self.path.name

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 pixels."""
        return self.levels[0].width, self.levels[0].height

    @cached_property
    def fingerprint(self) -> str:
        """Tell this slide from others: a hash of the file's size, first and last MiB."""
        if self.path is None:
            pixels = self._scan.read_level(0, 0, 0, *self.size)
            return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32]
        return fingerprint_of(self.path)

    def achieved_mpp(self, mpp: float) -> float:
        """Give the mpp that pixels asked for at `mpp` will have.

        It is `mpp`, but the scan's own where that is within 5%.

        Raises:
            ValueError: `mpp` is finer than the scan itself.
        """
        if near(mpp, self.mpp):
            return self.mpp
        if not (isfinite(mpp) and mpp > 0):
            raise ValueError(f"mpp must be a positive number, not {mpp}")
        if mpp < self.mpp:
            found = sharper_than_the_scan(mpp, self.mpp)
            raise ValueError(f"{self.name}: {found}; ask for no more, or check the slide's mpp.")
        return mpp

    def level_for(self, mpp: float) -> int:
        """Choose the level that is read for `mpp`: the coarsest stored one just sharp enough.

        Raises:
            ValueError: `mpp` is finer than the scan itself.
        """
        sharp_enough = self.achieved_mpp(mpp) / self.mpp * (1 + LEVEL_TOLERANCE)
        levels = [i for i, level in enumerate(self.levels) if level.downsample <= sharp_enough]
        return max(levels, key=lambda i: self.levels[i].downsample)

    def read(self, box: Box, mpp: float, *, stage: Stage = "read") -> UInt8[np.ndarray, "h w 3"]:
        """Read a region as RGB pixels at a chosen resolution.

        The stored level just sharp enough is read, from its nearest whole pixel, then shrunk
        by area averaging; nothing is ever enlarged. Memory stays bounded however large the box.

        Args:
            box: the region, in level-0 pixels. What lies outside the scan is white.
            mpp: resolution of the result, in µm per pixel; see `achieved_mpp`.
            stage: where the seconds are billed.

        Returns:
            Pixels in 0..255; h and w are the box's times `slide.mpp / achieved_mpp(mpp)`,
            rounded, at least 1.

        Raises:
            ValueError: `mpp` is finer than the scan itself.
            SlideError: the file is damaged inside `box`.
        """
        self._check_open()
        with self.bill.timed(stage):
            scale = self.achieved_mpp(mpp) / self.mpp
            level = self.level_for(mpp)
            downsample = self.levels[level].downsample
            columns = Span.of(box.x / downsample, box.width / downsample, box.width / scale)
            rows = Span.of(box.y / downsample, box.height / downsample, box.height / scale)
            return self._read_spans(level, columns, rows)

    def resample(
        self, box: Box, size: tuple[int, int], *, stage: Stage = "read"
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Read a region as a picture of a given size.

        As `read`, but for the size, and that a scan with fewer pixels is enlarged bilinearly.

        Args:
            box: the region, in level-0 pixels. What lies outside the scan is white.
            size: height and width of the result.
            stage: where the seconds are billed.

        Raises:
            SlideError: the file is damaged inside `box`.
        """
        self._check_open()
        with self.bill.timed(stage):
            stored = max(1, round(box.height)), max(1, round(box.width))
            height, width = min(size[0], stored[0]), min(size[1], stored[1])
            sharpness = min(box.height / height, box.width / width)
            level = self.level_for(self.mpp * max(1.0, sharpness))
            downsample = self.levels[level].downsample
            columns = Span.of(box.x / downsample, box.width / downsample, width)
            rows = Span.of(box.y / downsample, box.height / downsample, height)
            pixels = self._read_spans(level, columns, rows)
            if pixels.shape[:2] == size:
                return pixels
            enlarged = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
            return np.array(enlarged)

    def close(self) -> None:
        """Let go of the file."""
        self._closed = True
        self._scan.close()

    def __enter__(self) -> "Slide":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> "tuple[Callable[[], Slide], tuple[()]]":
        return self._reopen, ()

    def _repr_png_(self) -> bytes:
        """Show the whole slide, small, in a notebook; nothing of that is billed."""
        encoded = io.BytesIO()
        with self._reopen() as again:
            width, height = self.size
            scale = max(1.0, max(width, height) / SHOWN_PX)
            pixels = again.read(Box(0, 0, width, height), self.mpp * scale)
        Image.fromarray(pixels).save(encoded, "PNG")
        return encoded.getvalue()

    def __repr__(self) -> str:
        return f"<Slide {self.id}: {self.size[0]} x {self.size[1]} px, {self.mpp:.4g} um/px>"

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.name}: the slide is closed; read inside its `with` block.")

    def _read_spans(self, level: int, columns: Span, rows: Span) -> UInt8[np.ndarray, "h w 3"]:
        across, down = columns.stages, rows.stages
        if (across, down) != (1, 1):
            finer = self._read_spans(level, columns.finer(across), rows.finer(down))
            return shrink_whole(finer, (across, down))
        if columns.blocks == rows.blocks == 1:
            return self._read_block(level, columns, rows)
        pixels = np.empty((rows.count, columns.count, 3), dtype=np.uint8)
        for top, part in rows.split():
            for left, piece in columns.split():
                block = self._read_block(level, piece, part)
                pixels[top : top + part.count, left : left + piece.count] = block
        return pixels

    def _read_block(self, level: int, columns: Span, rows: Span) -> UInt8[np.ndarray, "h w 3"]:
        pixels = self._stored(level, columns, rows)
        if columns.whole and rows.whole:
            return shrink_whole(pixels, (int(columns.step), int(rows.step)))
        return shrink(pixels, rows.edges, columns.edges)

    def _stored(self, level: int, columns: Span, rows: Span) -> UInt8[np.ndarray, "h w 3"]:
        """Read stored pixels of a level, white outside it."""
        left, width = columns.inside(self.levels[level].width)
        top, height = rows.inside(self.levels[level].height)
        if width == 0 or height == 0:
            return np.full((rows.length, columns.length, 3), 255, dtype=np.uint8)
        self.bill.add_pixels(width * height)
        pixels = self._scan.read_level(level, left, top, width, height)
        if (height, width) == (rows.length, columns.length):
            return pixels
        canvas = np.full((rows.length, columns.length, 3), 255, dtype=np.uint8)
        y, x = top - rows.first, left - columns.first
        canvas[y : y + height, x : x + width] = pixels
        return canvas


def open_slide(
    path: Path | str,
    *,
    mpp: float | None = None,
    bill: CostMeter | None = None,
    listed: bool = False,
) -> Slide:
    """Open a slide file: tiled TIFF directly, other formats through OpenSlide, or a picture.

    Args:
        path: the file; for DICOM, any instance of the series or its folder.
        mpp: microns per level-0 pixel, over what the file records.
        bill: where the cost is written; a new one if None.
        listed: it is a row of a cohort's table, where its mpp can be given.

    Raises:
        ValueError: `mpp` is outside 0.05 to 50.
        MissingMppError: the file does not say its mpp, and none is given.
        ImplausibleMppError: it says one that no microscope has, and none is given.
        SlideError: there is no such file, it is no slide, or it is damaged.
    """
    path, bill = Path(path), CostMeter() if bill is None else bill
    _check_given(mpp)
    with bill.timed("open"):
        scan = _open_scan(path, bill)
        recorded = scan.record.mpp
        try:
            if mpp is None and recorded is None:
                raise MissingMppError(path, scan.record.objective_power, listed=listed)
            if mpp is None and recorded is not None and not MIN_MPP <= recorded <= MAX_MPP:
                raise ImplausibleMppError(path, recorded, listed=listed)
        except SlideError:
            scan.close()
            raise
    believed, source = (
        (recorded, f"file: {scan.record.mpp_source}") if mpp is None else (mpp, "given")
    )
    assert believed is not None
    return Slide(
        scan,
        slide_id(path),
        mpp=believed,
        mpp_source=source,
        path=path,
        bill=bill,
        reopen=partial(open_slide, path, mpp=mpp),
    )


def slide_from_array(
    pixels: UInt8[np.ndarray, "h w 3"],
    *,
    mpp: float,
    name: str = "array",
    bill: CostMeter | None = None,
) -> Slide:
    """Treat an array of RGB pixels as a slide.

    Raises:
        ValueError: `mpp` is outside 0.05 to 50.
    """
    _check_given(mpp)
    return Slide(
        ArrayScan(pixels, vendor="array"),
        name,
        mpp=mpp,
        mpp_source="given",
        path=None,
        bill=CostMeter() if bill is None else bill,
        reopen=partial(slide_from_array, pixels, mpp=mpp, name=name),
    )


def slide_id(path: Path | str) -> str:
    """Name a slide after its file, without the extension.

    >>> slide_id("cohort/S-012.v2.svs"), slide_id("OS-1.ome.tif")
    ('S-012.v2', 'OS-1')
    """
    path = Path(path)
    if path.is_dir():  # a DICOM series; what follows a dot is no extension
        return path.resolve().name
    return path.stem[:-4] if path.stem.lower().endswith(".ome") else path.stem


def _check_given(mpp: float | None) -> None:
    if mpp is not None and not MIN_MPP <= mpp <= MAX_MPP:
        raise ValueError(
            f"mpp={mpp:g} is outside {MIN_MPP:g} to {MAX_MPP:g} microns per pixel; a 40x scan is "
            "about 0.25, 20x about 0.5."
        )


def _open_scan(path: Path, bill: CostMeter) -> Scan:
    if not path.exists():
        raise SlideError(
            f"{path}: there is no such file; check the path (in a cohort's CSV it is relative to "
            "the CSV)."
        )
    file = dicom_instance(path) if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            empty = not opened.read(1)
    except OSError as error:
        raise SlideError(f"{file}: cannot be read ({error.strerror}); check its rights.") from error
    if empty:
        raise SlideError(f"{file}: the file is empty (0 bytes); copy it again from its source.")
    known = OpenSlideScan(file) if OpenSlideScan.detects(file) else None
    direct = open_tiled(file, known, bill)
    if direct is None:
        return known or open_image(file)
    if known is not None:
        known.close()
    return direct


def fingerprint_of(path: Path) -> str:
    """Hash a file's size and both ends; for a folder, those of all its files."""
    digest = hashlib.sha256()
    mebibyte = 2**20
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with file.open("rb") as opened:
            digest.update(opened.read(mebibyte))
            opened.seek(max(0, size - mebibyte))
            digest.update(opened.read())
    return digest.hexdigest()[:32]
