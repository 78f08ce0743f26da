"""Slide and open_slide: read a slide file at any resolution.

A reader (`readers/`) returns the stored pixels of a file. `Slide` resamples them to true microns
per pixel, in the same way for every format.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from math import isfinite
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from parfocal.cost import CostMeter, Stage
from parfocal.slide.identity import HASH_DIGITS, file_fingerprint, slide_id, source_fingerprint
from parfocal.slide.readers.image import ArrayScan
from parfocal.slide.readers.opening import open_scan
from parfocal.slide.readers.scan import Level, Scan
from parfocal.slide.readers.tiff_checks import MissingTiles
from parfocal.slide.recorded_mpp import recorded_mpp
from parfocal.slide.region import RegionReader
from parfocal.slide.resolution import check_mpp, describe_too_sharp, same_resolution
from parfocal.slide.shrink import LEVEL_TOLERANCE, Span
from parfocal.slide.sources.source import ByteSource
from parfocal.slide.sources.url import SlidePath, SlideUrl, parse_slide_path
from parfocal.slide.staging import staged

NOTEBOOK_PX = 480  # longer side of a slide's image in a notebook


@dataclass(frozen=True)
class Box:
    """A region of a slide in level-0 pixels; it may extend beyond the scan.

    Args:
        x: left edge.
        y: top edge.
        width: width in level-0 pixels.
        height: height in level-0 pixels.
    """

    x: float
    y: float
    width: float
    height: float


class Slide:
    """A scanned slide, read at any resolution; the cost of reading is measured.

    Threads may share it, it works after a fork, and it can be pickled: another process opens the
    slide again, with a cost meter of its own.

    Args:
        scan: the open file.
        slide_id: id of the slide.
        mpp: microns per level-0 pixel.
        mpp_source: origin of `mpp`: "given", or the field of the file.
        path: the file; None for an array.
        cost_meter: measures the cost of reading.
        reopen: opens the same slide in another process.
        tissue_path: file with the tissue; None to find it.
        from_cohort: whether the slide is a row of a cohort's table, for the advice in messages.
        on_close: called when the slide is closed.
    """

    def __init__(
        self,
        scan: Scan,
        slide_id: str,
        *,
        mpp: float,
        mpp_source: str,
        path: SlidePath | None,
        cost_meter: CostMeter,
        reopen: "Callable[[], Slide]",
        tissue_path: Path | None = None,
        from_cohort: bool = False,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.id = slide_id
        self.mpp = mpp
        self.mpp_source = mpp_source
        self.path = path
        self.tissue_path = tissue_path
        self.from_cohort = from_cohort
        self.cost_meter = cost_meter
        self.levels: tuple[Level, ...] = scan.levels
        self.vendor = scan.metadata.vendor
        self.objective_power = scan.metadata.objective_power
        self._scan = scan
        self._regions = RegionReader(scan, cost_meter)
        self._reopen = reopen
        self._on_close = on_close
        self._is_closed = False

    @property
    def name(self) -> str:
        """Name of the slide in messages: the file name, or the id if there is no file."""
        return self.id if self.path is None else self.path.name

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 pixels."""
        return self.levels[0].width, self.levels[0].height

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is unusual about the file, as far as it has been read."""
        spare = getattr(self._scan, "spare_tiles", 0)
        found = (_describe_spare(spare),) if spare else ()
        return (*self._scan.metadata.notes, *found)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the file's size, first MiB and last MiB; for an array, of its pixels."""
        sources: Sequence[ByteSource] = getattr(self._scan, "sources", ())
        if isinstance(self.path, SlideUrl) and sources:
            return source_fingerprint(sources)
        if self.path is not None:
            return file_fingerprint(self.path)
        pixels = self._scan.read_level(0, 0, 0, *self.size)
        content = repr(pixels.shape).encode() + pixels.tobytes()
        return hashlib.sha256(content).hexdigest()[:HASH_DIGITS]

    def achieved_mpp(self, mpp: float) -> float:
        """Return the mpp of the pixels that `read` returns for a requested mpp.

        This is the scan's own mpp if the requested mpp is within 5% of it, else the requested mpp.

        Raises:
            ValueError: `mpp` is finer than the scan itself.
        """
        if same_resolution(mpp, self.mpp):
            return self.mpp
        if not (isfinite(mpp) and mpp > 0):
            raise ValueError(f"mpp must be a positive number, not {mpp}")
        if mpp < self.mpp:
            problem = describe_too_sharp(mpp, self.mpp)
            raise ValueError(
                f"{self.name}: {problem}. Request a coarser mpp, or check the mpp of the slide."
            )
        return mpp

    def level_for(self, mpp: float) -> int:
        """Return the index of the stored level to read: the coarsest one that is sharp enough.

        Raises:
            ValueError: `mpp` is finer than the scan itself.
        """
        limit = self.achieved_mpp(mpp) / self.mpp * (1 + LEVEL_TOLERANCE)
        sharp_enough = [i for i, level in enumerate(self.levels) if level.downsample <= limit]
        return max(sharp_enough, key=lambda i: self.levels[i].downsample)

    def read(self, box: Box, mpp: float, *, stage: Stage = "read") -> UInt8[np.ndarray, "h w 3"]:
        """Read a region as RGB pixels at a chosen resolution.

        The coarsest stored level that is sharp enough is read from its nearest whole pixel, then
        shrunk by area averaging; nothing is ever enlarged. Memory is bounded for any box.

        Args:
            box: the region, in level-0 pixels. What lies outside the scan is white.
            mpp: resolution of the result in µm per pixel; see `achieved_mpp`.
            stage: stage of the cost that the seconds count for.

        Returns:
            Pixels in 0..255; h and w are the box's times `slide.mpp / achieved_mpp(mpp)`,
            rounded, at least 1.

        Raises:
            ValueError: `mpp` is finer than the scan itself.
            SlideError: the file is damaged inside `box`.
        """
        self._check_open()
        with self.cost_meter.measure_time(stage):
            return self._regions.read(self.level_for(mpp), *self._spans(box, mpp))

    @property
    def reads_ahead(self) -> bool:
        """Whether `read_ahead` is of any use: for remote slides, and on slow disks."""
        return self._regions.reads_ahead

    def read_ahead(self, boxes: Sequence[Box], mpp: float) -> int:
        """Start fetching regions that `read` will be called for; return at once.

        Of a remote slide, the parts of the file that they need are fetched together. Nothing is
        done for formats whose reader cannot do that, and for disks that are fast.

        Args:
            boxes: the regions, in the order in which they will be read.
            mpp: resolution at which they will be read, in µm per pixel.

        Returns:
            How many of the regions, from the first, are fetched or need not be; for the others
            there is no memory yet.
        """
        self._check_open()
        return self._regions.read_ahead(
            self.level_for(mpp), [self._spans(box, mpp) for box in boxes]
        )

    def resample_ahead(self, regions: Sequence[tuple[Box, tuple[int, int]]]) -> None:
        """Start fetching regions that `resample` will be called for; see `read_ahead`.

        Args:
            regions: box and size of each.
        """
        self._check_open()
        by_level: dict[int, list[tuple[Span, Span]]] = {}
        for box, size in regions:
            level, *spans = self._resampled_spans(box, size)
            by_level.setdefault(level, []).append((spans[0], spans[1]))
        for level, spans_of_level in by_level.items():
            self._regions.read_ahead(level, spans_of_level)

    def cancel(self) -> None:
        """Let reads of other threads that wait for a network fail at once; then close the slide."""
        self._regions.cancel()

    def resample(
        self, box: Box, size: tuple[int, int], *, stage: Stage = "read"
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Read a region as RGB pixels of a chosen size.

        Unlike `read`, it enlarges bilinearly where the scan has fewer pixels than requested.

        Args:
            box: the region, in level-0 pixels. What lies outside the scan is white.
            size: height and width of the result in pixels.
            stage: stage of the cost that the seconds count for.

        Raises:
            SlideError: the file is damaged inside `box`.
        """
        self._check_open()
        with self.cost_meter.measure_time(stage):
            pixels = self._regions.read(*self._resampled_spans(box, size))
            if pixels.shape[:2] == size:
                return pixels
            enlarged = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
            return np.array(enlarged)

    def close(self) -> None:
        """Close the file."""
        self._is_closed = True
        self._scan.close()
        if self._on_close is not None:
            self._on_close()
            self._on_close = None

    def _spans(self, box: Box, mpp: float) -> tuple[Span, Span]:
        """Return the axes of a box on the level that is read for a resolution."""
        scale = self.achieved_mpp(mpp) / self.mpp
        downsample = self.levels[self.level_for(mpp)].downsample
        return (
            Span.fit(box.x / downsample, box.width / downsample, box.width / scale),
            Span.fit(box.y / downsample, box.height / downsample, box.height / scale),
        )

    def _resampled_spans(self, box: Box, size: tuple[int, int]) -> tuple[int, Span, Span]:
        """Return the level that is read for a size, and the axes of a box on it."""
        stored = max(1, round(box.height)), max(1, round(box.width))
        height, width = min(size[0], stored[0]), min(size[1], stored[1])
        scale = min(box.height / height, box.width / width)
        level = self.level_for(self.mpp * max(1.0, scale))
        downsample = self.levels[level].downsample
        columns = Span.fit(box.x / downsample, box.width / downsample, width)
        return level, columns, Span.fit(box.y / downsample, box.height / downsample, height)

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
        """Return a small PNG of the whole slide for notebooks; its cost is not measured."""
        encoded = io.BytesIO()
        with self._reopen() as copy:
            scale = max(1.0, max(self.size) / NOTEBOOK_PX)
            pixels = copy.read(Box(0, 0, *self.size), self.mpp * scale)
        Image.fromarray(pixels).save(encoded, "PNG")
        return encoded.getvalue()

    def __repr__(self) -> str:
        return f"<Slide {self.id}: {self.size[0]} x {self.size[1]} px, {self.mpp:.4g} µm/px>"

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError(f"{self.name}: the slide is closed. Read it inside its `with` block.")


def open_slide(
    path: SlidePath | str,
    *,
    mpp: float | None = None,
    cost_meter: CostMeter | None = None,
    from_cohort: bool = False,
    missing_tiles: MissingTiles = "auto",
    tissue: Path | None = None,
) -> Slide:
    """Open a slide file: a tiled TIFF directly, other formats with OpenSlide, images with Pillow.

    Args:
        path: the file; for DICOM, any instance of the series or its folder. Or a URL, as text or as
            a `SlideUrl`, of which only what is read is fetched.
        mpp: microns per level-0 pixel, which overrides what the file records.
        cost_meter: measures the cost of reading; a new one if None.
        from_cohort: whether the slide is a row of a cohort's table; messages then name its
            columns, and options of the command line otherwise.
        missing_tiles: what to do with tiles that are not stored: "refuse", or "background" to
            read them as such; "auto" for background in formats that leave out blank tiles on
            purpose (Philips TIFF), and to refuse others.
        tissue: GeoJSON file or mask image with the tissue; None to find it. It is not read here;
            see `parfocal.slide.given_tissue`.

    Raises:
        ValueError: `mpp` is outside 0.05 to 50.
        MissingMppError: the file records no mpp, and none is given.
        ImplausibleMppError: the file records an mpp outside 0.05 to 50, and none is given.
        NotSquareError: the file records pixels whose sides differ by more than 2%, and no mpp is
            given.
        SlideError: the file is missing, is not a slide, or is damaged.
    """
    path = parse_slide_path(path)
    cost_meter = CostMeter() if cost_meter is None else cost_meter
    if mpp is not None:
        check_mpp(mpp)
    with cost_meter.measure_time("open"), ExitStack() as stack:
        file, release = staged(path)
        stack.callback(release)
        scan = open_scan(file, cost_meter, missing_tiles=missing_tiles)
        stack.callback(scan.close)
        used_mpp = recorded_mpp(scan, path, from_cohort=from_cohort) if mpp is None else mpp
        stack.pop_all()
    return Slide(
        scan,
        slide_id(path),
        mpp=used_mpp,
        mpp_source=f"file: {scan.metadata.mpp_source}" if mpp is None else "given",
        path=path,
        cost_meter=cost_meter,
        reopen=partial(open_slide, path, mpp=mpp, missing_tiles=missing_tiles, tissue=tissue),
        tissue_path=tissue,
        from_cohort=from_cohort,
        on_close=release,
    )


def slide_from_array(
    pixels: UInt8[np.ndarray, "h w 3"],
    *,
    mpp: float,
    name: str = "array",
    cost_meter: CostMeter | None = None,
) -> Slide:
    """Build a slide from an array of RGB pixels.

    Args:
        pixels: the pixels, which are not copied.
        mpp: microns per pixel.
        name: id of the slide.
        cost_meter: measures the cost of reading; a new one if None.

    Raises:
        ValueError: `mpp` is outside 0.05 to 50.
    """
    check_mpp(mpp)
    return Slide(
        ArrayScan(pixels, vendor="array"),
        name,
        mpp=mpp,
        mpp_source="given",
        path=None,
        cost_meter=CostMeter() if cost_meter is None else cost_meter,
        reopen=partial(slide_from_array, pixels, mpp=mpp, name=name),
    )


def _describe_spare(tiles: int) -> str:
    """Describe tiles with zeros before their end, which lose no pixel."""
    if tiles == 1:
        return "1 tile has spare bytes before its end; no pixel is lost"
    return f"{tiles} tiles have spare bytes before their end; no pixel is lost"
