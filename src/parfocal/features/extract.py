"""Extract features: of one slide into a feature file, of a cohort into a folder of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import numpy as np
import torch

from parfocal.encoders.encoder import Encoder
from parfocal.features.errors import StoreError, UnwritableError
from parfocal.features.header import FORMAT_VERSION, Header, SlideSettings
from parfocal.features.live import PatchEncoder, reading_threads
from parfocal.features.store import FeatureFile, feature_path
from parfocal.features.writer import Dtype, create
from parfocal.grid import PatchGrid
from parfocal.progress import Progress
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Slide, open_slide

logger = getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """The result of extracting features of a cohort.

    Args:
        done: ids of the slides extracted now.
        skipped: ids of the slides whose feature file existed.
        failed: reason of each failure, by slide id.
    """

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: dict[str, str]


def extract_slide(
    slide: Slide,
    grid: PatchGrid,
    encoder: Encoder,
    path: Path,
    *,
    settings: SlideSettings,
    dtype: Dtype = "float16",
) -> None:
    """Write the features of every patch of a slide to a feature file.

    The file is written completely or not at all. Memory does not grow with the slide.

    Args:
        slide: slide to read from.
        grid: patches of the slide, made with `settings`.
        encoder: encoder of the patches.
        path: file to write; an existing one is replaced.
        settings: settings to record in the file, for later checks.
        dtype: "float16", or "float32" to keep the precision that a live bag rounds off.

    Raises:
        SlideError: a patch cannot be read.
        StoreError: the file cannot be written.
    """
    header = Header(encoder.spec, settings, grid, slide.id, slide.fingerprint, slide.mpp_source)
    patches = PatchEncoder(slide, grid, encoder, reading_threads())
    with create(path, header, dtype=dtype) as writer:
        for step in range(len(grid.mpps)):
            for rows, features in patches.encode(step, np.flatnonzero(grid.valid(step))):
                rounded = features.to(getattr(torch, dtype))
                writer.write(step, rows, rounded.cpu().numpy())


def extract_cohort(
    slides: Iterable[tuple[str, Path, float | None]],
    out: Path,
    *,
    encoder: Encoder,
    settings: SlideSettings,
    dtype: Dtype = "float16",
) -> Extraction:
    """Write a feature file for every slide of a cohort that has none.

    A slide that fails is recorded, and the others are still extracted.

    Args:
        slides: id, slide file, and mpp of each slide; the mpp is None to use that of the file.
        out: folder of feature files, `<id>.h5`.
        encoder: encoder of the patches.
        settings: which patches a slide has.
        dtype: type of the features.

    Raises:
        MixedFeaturesError: a file in `out` was made by another encoder or with other settings.
        StoreError: a file cannot be written; the slides before it are done.
    """
    slides = list(slides)
    _check_existing([feature_path(out, slide_id) for slide_id, _, _ in slides], encoder, settings)
    done: list[str] = []
    skipped: list[str] = []
    failed: dict[str, str] = {}
    progress = Progress("extracting", len(slides))
    for slide_id, path, mpp in slides:
        try:
            with open_slide(path, mpp=mpp, from_cohort=True) as slide:
                new = _extract_if_new(slide, feature_path(out, slide_id), encoder, settings, dtype)
        except UnwritableError:
            raise
        except (SlideError, StoreError) as error:
            failed[slide_id] = str(error)
            progress.fail(slide_id)
        else:
            (done if new else skipped).append(slide_id)
            note = "extracted" if new else "has its features already"
            progress.advance(slide_id, note=note, skipped=not new)
    return Extraction(tuple(done), tuple(skipped), failed)


def _check_existing(paths: list[Path], encoder: Encoder, settings: SlideSettings) -> None:
    """Refuse existing files that do not mix with the new ones, before hours of work.

    Files of an older format version that pass mix with new ones: both give the same bags.
    """
    older = 0
    for path in paths:
        if not path.exists():
            continue
        try:
            stored = FeatureFile(path)
        except StoreError:
            continue  # reported as the failure of its slide
        stored.check(encoder.spec, settings)
        older += stored.format_version < FORMAT_VERSION
    if older:
        logger.info(
            "%d existing feature %s an older format version: kept as they are, and read like new "
            "files, which have version %d",
            older,
            "file has" if older == 1 else "files have",
            FORMAT_VERSION,
        )


def _extract_if_new(
    slide: Slide, path: Path, encoder: Encoder, settings: SlideSettings, dtype: Dtype
) -> bool:
    """Extract a slide unless its feature file exists; return whether it was extracted."""
    if path.exists():
        FeatureFile(path).check(encoder.spec, settings, slide=slide)
        return False
    extract_slide(slide, settings.grid(slide), encoder, path, settings=settings, dtype=dtype)
    return True
