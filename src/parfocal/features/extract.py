"""One slide -> one feature file; a cohort -> a folder of them, going on where it stopped."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from parfocal.encoders.encoder import Encoder
from parfocal.features.errors import StoreError, UnwritableError
from parfocal.features.header import Header, SlideSettings
from parfocal.features.live import PatchEncoder, reading_threads
from parfocal.features.store import Dtype, FeatureFile, create, feature_path
from parfocal.grid import PatchGrid
from parfocal.slide.errors import SlideError
from parfocal.slide.slide import Slide, open_slide

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What became of the slides of a cohort.

    Args:
        done: ids of those extracted now.
        skipped: of those whose feature file was there already.
        failed: why each of the others has none.
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
    """Write the features of every patch of a grid to a feature file, whole or not at all.

    Memory is bounded whatever the slide's size.

    Args:
        slide: to read from.
        grid: laid over it as `settings` say.
        encoder: of patches.
        path: the file to write; replaced where there is one.
        settings: written in the file, to be checked by readers.
        dtype: float32 keeps what a live bag rounds off.

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
    """Write a feature file for every slide that has none, and tell of those that failed.

    Args:
        slides: id, file and, where the file does not tell or is wrong, mpp of each.
        out: folder of feature files, `<id>.h5`.
        encoder: of patches.
        settings: which patches.
        dtype: of the features.

    Raises:
        MixedFeaturesError: `out` holds a file that was made otherwise.
        StoreError: a file cannot be written; the slides before it are done.
    """
    slides = list(slides)
    for slide_id, _, _ in slides:
        _refuse_to_mix(feature_path(out, slide_id), encoder, settings)
    done: list[str] = []
    skipped: list[str] = []
    failed: dict[str, str] = {}
    for number, (slide_id, path, mpp) in enumerate(slides, start=1):
        try:
            with open_slide(path, mpp=mpp, listed=True) as slide:
                new = _extract_new(slide, feature_path(out, slide_id), encoder, settings, dtype)
        except UnwritableError:
            raise
        except (SlideError, StoreError) as error:
            failed[slide_id] = str(error)
            what = "failed"  # why, is told with all others in the end
        else:
            (done if new else skipped).append(slide_id)
            what = "extracted" if new else "has its features already"
        logger.info("slide %d of %d, %s: %s", number, len(slides), slide_id, what)
    return Extraction(tuple(done), tuple(skipped), failed)


def _refuse_to_mix(path: Path, encoder: Encoder, settings: SlideSettings) -> None:
    """Refuse the whole run, before hours of work, where a file there was made otherwise."""
    if not path.exists():
        return
    try:
        stored = FeatureFile(path)
    except StoreError:
        return  # told when its slide's turn comes
    stored.check(encoder.spec, settings)


def _extract_new(
    slide: Slide, path: Path, encoder: Encoder, settings: SlideSettings, dtype: Dtype
) -> bool:
    """Extract a slide unless it has been; tell whether it was extracted now."""
    if path.exists():
        FeatureFile(path).check(encoder.spec, settings, slide=slide)
        return False
    extract_slide(slide, settings.grid(slide), encoder, path, settings=settings, dtype=dtype)
    return True
