"""Extract features: of one slide into a feature file, of a cohort into a folder of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64

from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution, WorkList
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.per_magnification import per_magnification
from parfocal.encoders.queue import EncoderSource
from parfocal.encoders.spec import EncoderSpec
from parfocal.features.cache import FeatureCache, SlideCache
from parfocal.features.header import FORMAT_VERSION, Header, SlideSettings
from parfocal.features.live import PatchEncoder, StartedPatches, reading_threads
from parfocal.features.next_slide import NextSlide, OpenedSlide
from parfocal.features.store import FeatureFile, feature_path
from parfocal.features.writer import Dtype, FeatureWriter, create, make_folder
from parfocal.files import refuse_slide_folder
from parfocal.grid import PatchGrid
from parfocal.slide.failure import catch_failure
from parfocal.slide.given_tissue import tissue_fingerprint
from parfocal.slide.notes import warn_of_notes
from parfocal.slide.slide import Slide, open_slide
from parfocal.slide.sources.url import SlidePath, SlideUrl

CACHE_BLOCK = 4096  # patches looked up at once; limits the memory

logger = getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """The result of extracting features of a cohort.

    Args:
        done: ids of the slides extracted now.
        skipped: ids of the slides whose feature file existed.
        failed: reason of each failure, by slide id.
        elsewhere: ids of the slides extracted now by other commands.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: dict[str, str]
    elsewhere: tuple[str, ...] = ()


@runtime_checkable
class Layout(Protocol):
    """A layout of another tool, into which feature files of parfocal are rewritten."""

    @property
    def folder(self) -> Path:
        """Folder of the feature files of parfocal, until they are rewritten."""

    def is_done(
        self,
        slide_id: str,
        encoders: tuple[EncoderSpec, ...],
        magnifications: tuple[float, ...],
        patch_size: int,
    ) -> bool:
        """Return whether a slide has its files at all magnifications."""

    def finish(self, path: Path, slide_id: str) -> None:
        """Rewrite a feature file of parfocal, and delete it."""


def extract_slide(
    slide: Slide,
    grid: PatchGrid,
    encoder: Encoder | Sequence[Encoder],
    path: Path,
    *,
    settings: SlideSettings,
    dtype: Dtype = "float16",
    cache: FeatureCache | None = None,
    first: StartedPatches | None = None,
    when_read: Callable[[], None] | None = None,
) -> None:
    """Write the features of every patch of a slide to a feature file.

    The file is written completely or not at all. Memory does not grow with the slide.

    Args:
        slide: slide to read from.
        grid: patches of the slide, made with `settings`.
        encoder: encoder of the patches, one for all magnifications or one for each, lowest first.
        path: file to write; an existing one is replaced.
        settings: settings to record in the file, for later checks.
        dtype: "float16", or "float32" to keep the precision that a live bag rounds off.
        cache: features of visited patches, which are not computed again; None for no cache. Cached
            features have the type float16, and are used for that type only.
        first: all patches of the lowest magnification, if they are being read already.
        when_read: called once, when the last patches are being read.

    Raises:
        SlideError: a patch cannot be read.
        StoreError: the file cannot be written.
    """
    encoders = per_magnification(encoder, len(grid.mpps))
    header = Header(
        tuple(each.spec for each in encoders),
        settings,
        grid,
        slide.id,
        slide.fingerprint,
        slide.mpp_source,
        tissue_fingerprint(slide.tissue_path, settings.exclude_classes),
    )
    patches = PatchEncoder(slide, grid, encoders, reading_threads())
    with create(path, header, dtype=dtype) as writer:
        for step, each in enumerate(encoders):
            rows = np.flatnonzero(grid.valid(step))
            slide_cache = None
            if cache is not None and dtype == "float16":
                slide_cache = cache.for_slide(
                    slide.fingerprint, each.spec, patch_size=grid.patch_size
                )
            if slide_cache is not None and slide_cache.path.exists():
                rows = _write_cached(writer, slide_cache, grid, step=step, rows=rows)
            started = patches.start(step, rows) if step or first is None else first
            last = step == len(encoders) - 1
            for batch, features in started.run(when_read=when_read if last else None):
                rounded = features.to(getattr(torch, dtype))
                writer.write(step, batch, rounded.cpu().numpy())


def _write_cached(
    writer: FeatureWriter,
    cache: SlideCache,
    grid: PatchGrid,
    *,
    step: int,
    rows: Int64[np.ndarray, " n"],
) -> Int64[np.ndarray, " m"]:
    """Write the features of cached patches; return the rows of the other patches."""
    left = [rows[:0]]
    with cache.connect() as connection:
        for start in range(0, len(rows), CACHE_BLOCK):
            block = rows[start : start + CACHE_BLOCK]
            found, features = connection.get(grid.side_px(step), grid.coords(step, block))
            writer.write(step, block[found], features)
            left.append(block[~found])
    return np.concatenate(left)


def extract_cohort(
    slides: Iterable[tuple[str, SlidePath, float | None]],
    out: Path,
    *,
    encoder: Encoder | Sequence[Encoder],
    settings: SlideSettings,
    dtype: Dtype = "float16",
    cache: Path | None = None,
    tissue: Mapping[str, Path] | None = None,
    layout: Layout | None = None,
    load_encoders: Callable[[], Sequence[Encoder]] | None = None,
    distribution: Distribution = EVERYTHING_HERE,
) -> Extraction:
    """Write a feature file for every slide of a cohort that has none.

    Whatever goes wrong with a slide, it is recorded, and the others are still extracted. Calls that
    extract into the same folder at the same time share the slides.

    Args:
        slides: id, slide file, and mpp of each slide; the mpp is None to use that of the file.
        out: folder of feature files, `<id>.h5`.
        encoder: encoder of the patches, one for all magnifications or one for each, lowest first.
        settings: which patches a slide has.
        dtype: type of the features.
        cache: folder of a feature cache, whose features are not computed again; None for none.
        tissue: tissue file of each slide that has one, by slide id; the tissue of the others is
            found.
        layout: layout of another tool to write instead; None for feature files of parfocal.
        load_encoders: loads the encoders in worker processes; None to send them `encoder`.
        distribution: how the slides are divided among commands and workers.

    Raises:
        MixedFeaturesError: a file in `out` was made by another encoder or with other settings.
        UnwritableError: `out` is not a folder that can be made, or the disk is full; the slides
            before it are done.
    """
    slides, tissue = list(slides), tissue or {}
    encoders = per_magnification(encoder, len(settings.magnifications))
    refuse_slide_folder(out, (path for _, path, _ in slides))
    specs = tuple(each.spec for each in encoders)
    folder = out if layout is None else layout.folder
    files = {feature_path(folder, slide_id): tissue.get(slide_id) for slide_id, _, _ in slides}
    _check_existing(files, specs, settings)
    make_folder(out)
    work = ExtractionWork(
        {slide_id: (path, mpp) for slide_id, path, mpp in slides},
        folder,
        settings,
        specs,
        EncoderSource(encoders, load_encoders),
        dtype=dtype,
        cache=cache,
        tissue=dict(tissue),
        layout=layout,
    )
    work_list = WorkList(
        *(out, "extracting", work),
        distribution=distribution,
        new_note="extracted",
        found_note="has its features already",
    )
    order = {item: number for number, item in enumerate(work.items)}
    ended = sorted(work_list.run(), key=lambda each: order[each.item])
    done, skipped, elsewhere = (
        tuple(each.item for each in ended if each.result and each.by == by)
        for by in ("here", "found", "elsewhere")
    )
    failed = {each.item: each.reason for each in ended if each.reason is not None}
    return Extraction(done, skipped, failed, elsewhere)


@dataclass(frozen=True)
class ExtractionWork:
    """Extracts slides into a folder; see `extract_cohort`, and `Work`.

    Args:
        slides: slide file and mpp of each slide, by slide id.
        folder: folder of the feature files.
        settings: which patches a slide has.
        specs: encoder of each magnification.
        encoders: the encoders.
        dtype: type of the features.
        cache: folder of a feature cache; None for none.
        tissue: tissue files by slide id.
        layout: layout of another tool to write instead; None for feature files of parfocal.
    """

    slides: Mapping[str, tuple[SlidePath, float | None]]
    folder: Path
    settings: SlideSettings
    specs: tuple[EncoderSpec, ...]
    encoders: EncoderSource
    dtype: Dtype
    cache: Path | None
    tissue: Mapping[str, Path]
    layout: Layout | None
    _next: NextSlide = field(default_factory=NextSlide)

    @property
    def items(self) -> tuple[str, ...]:
        """Ids of the slides."""
        return tuple(self.slides)

    def slide_files(self, item: str) -> tuple[SlidePath, ...]:
        """Return the slide of an item."""
        return (self.slides[item][0],)

    def prepare(self) -> None:
        """Load the encoders."""
        self.encoders.get()

    def find(self, item: str) -> bool | None:
        """Return True if a slide has its features, and they are those of its file."""
        if self.layout is not None:
            settings = self.settings
            found = self.layout.is_done(
                item, self.specs, settings.magnifications, settings.patch_size
            )
            return True if found else None
        if not self._file(item).exists():
            return None
        with self._open(item) as slide:
            self._check(slide, item)
            warn_of_notes(slide)
        return True

    def process(self, item: str) -> bool:
        """Extract a slide."""
        file = self._file(item)
        opened = self._next.take(item)
        with self._open(item) if opened is None else opened as slide:
            if file.exists():  # for a layout, and not rewritten yet
                self._check(slide, item)
            else:
                extract_slide(
                    slide,
                    self.settings.grid(slide) if opened is None else opened.grid,
                    self.encoders.get(),
                    file,
                    settings=self.settings,
                    dtype=self.dtype,
                    cache=None if self.cache is None else FeatureCache(self.cache),
                    first=None if opened is None else opened.first,
                    when_read=partial(self._next.start, self._open_next),
                )
            warn_of_notes(slide)
        if self.layout is not None:
            self.layout.finish(file, item)
        return True

    def expect(self, following: Callable[[], str | None]) -> None:
        """Open the next slide while one is being finished; see `ExpectsNext`."""
        self._next.following = following

    def close(self) -> None:
        """Close the next slide, if it is open."""
        self._next.close()

    def _open_next(self, item: str) -> OpenedSlide | None:
        """Open a slide and begin to read it; return None if it has its features."""
        if self._file(item).exists() or self.layout is not None or not self._waits(item):
            return None
        with ExitStack() as stack:
            slide = stack.enter_context(self._open(item))
            grid, first = self.settings.grid(slide), None
            encoders = self.encoders.get()
            # Of an encoder of several threads, patches are read and encoded together, which would
            # be in vain if another process takes the slide.
            if self.cache is None and encoders[0].workers == 1:
                patches = PatchEncoder(slide, grid, encoders, reading_threads())
                first = patches.start(0, np.flatnonzero(grid.valid(0)))
            kept = stack.pop_all()
        return OpenedSlide(slide, grid, first, kept)

    def _waits(self, item: str) -> bool:
        """Return whether the encoder would wait for a slide to be opened.

        An encoder on the CPU would not: it uses the same cores.
        """
        on_cpu = self.encoders.get()[0].device.type == "cpu"
        return not on_cpu or isinstance(self.slides[item][0], SlideUrl)

    def _file(self, item: str) -> Path:
        return feature_path(self.folder, item)

    def _open(self, item: str) -> Slide:
        path, mpp = self.slides[item]
        return open_slide(
            path,
            mpp=mpp,
            from_cohort=True,
            tissue=self.tissue.get(item),
            missing_tiles=self.settings.missing_tiles,
        )

    def _check(self, slide: Slide, item: str) -> None:
        """Refuse an existing feature file of another slide or with other settings."""
        FeatureFile(self._file(item)).check(
            self.specs, self.settings, slide=slide, tissue=slide.tissue_path
        )


def _check_existing(
    files: Mapping[Path, Path | None], encoders: Sequence[EncoderSpec], settings: SlideSettings
) -> None:
    """Refuse existing files that do not mix with the new ones, before hours of work.

    Files of an older format version that pass mix with new ones: both give the same bags.

    Args:
        files: tissue file of each feature file; None for tissue that is found.
        encoders: encoder of each magnification of the new files.
        settings: settings of the new files.
    """
    older = 0
    for path, tissue in files.items():
        with catch_failure(path.name) as attempt:
            stored = FeatureFile(path) if path.exists() else None
        if attempt.reason is not None or stored is None:
            continue  # a damaged file is reported as the failure of its slide
        stored.check(encoders, settings, tissue=tissue)
        older += stored.format_version < FORMAT_VERSION
    if older:
        logger.info(
            "%d existing feature %s an older format version: kept as they are, and read like new "
            "files, which have version %d",
            older,
            "file has" if older == 1 else "files have",
            FORMAT_VERSION,
        )
