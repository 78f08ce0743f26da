"""Inspect many slides, given as files or as cohort tables."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.cohort import read_slides
from parfocal.dataset.tissue_files import TABLE_SUFFIXES
from parfocal.explain.inspection.report import SlideReport, describe_slide, find_patches
from parfocal.explain.inspection.strip import draw_strip
from parfocal.features.header import SlideSettings
from parfocal.grid import PatchGrid
from parfocal.progress import Progress
from parfocal.slide.failure import catch_failure
from parfocal.slide.identity import unique_slides
from parfocal.slide.slide import open_slide

QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class SlideSource:
    """A slide to inspect.

    Args:
        path: the slide file.
        mpp: microns per level-0 pixel; None to use the file's.
        tissue: file of the tissue; None to find it.
        from_cohort: whether the slide is a row of a cohort's table.
    """

    path: Path
    mpp: float | None = None
    tissue: Path | None = None
    from_cohort: bool = False


@dataclass(frozen=True)
class InspectedSlide:
    """The result of inspecting one slide.

    Args:
        path: the slide file.
        report: what it holds; None if it failed.
        reason: why it failed; None if it did not.
        picture: JPEG file of the slide, its tissue and its patches; None if it was not drawn.
    """

    path: Path
    report: SlideReport | None
    reason: str | None
    picture: bytes | None


def list_sources(
    paths: Sequence[Path],
    *,
    mpp: float | None = None,
    tissue: Mapping[Path, Path] | None = None,
) -> list[SlideSource]:
    """Return the slides that are given as files and as cohort tables.

    Args:
        paths: slide files, and tables with the columns slide_id and path.
        mpp: microns per level-0 pixel of the slide files and of rows without mpp.
        tissue: file of the tissue by slide file; the tissue of the others is in the table or found.

    Raises:
        CohortError: a table cannot be read.
    """
    tissue, sources = tissue or {}, []
    tables = [path for path in paths if path.suffix.lower() in TABLE_SUFFIXES]
    for path in unique_slides(path for path in paths if path not in tables):
        sources.append(SlideSource(path, mpp, tissue.get(path)))
    for table in tables:
        for row in read_slides(table):
            file = tissue.get(row.path, row.tissue)
            sources.append(SlideSource(row.path, row.mpp or mpp, file, from_cohort=True))
    return sources


def inspect_slides(
    sources: Sequence[SlideSource], settings: SlideSettings, *, pictures: bool = False
) -> Iterator[InspectedSlide]:
    """Inspect slides one after the other; whatever goes wrong with one, the next one follows.

    Args:
        sources: the slides.
        settings: which patches a slide has.
        pictures: whether to draw the slides.
    """
    progress = Progress("inspecting", len(sources))
    for source in sources:
        report = picture = None
        with catch_failure(source.path.name) as attempt:
            report, picture = _inspect(source, settings, pictures=pictures)
            progress.advance(source.path.name)
        if attempt.reason is not None:
            progress.fail(source.path.name)
        yield InspectedSlide(source.path, report, attempt.reason, picture)


def _inspect(
    source: SlideSource, settings: SlideSettings, *, pictures: bool
) -> tuple[SlideReport, bytes | None]:
    with open_slide(
        source.path, mpp=source.mpp, tissue=source.tissue, from_cohort=source.from_cohort
    ) as slide:
        tissue, patches = find_patches(slide, settings)
        report = describe_slide(slide, tissue, patches, settings.magnifications)
        if not pictures:
            return report, None
        grid = patches if isinstance(patches, PatchGrid) else None
        strip = draw_strip(slide, tissue, grid, settings.magnifications, title=report.id)
    encoded = io.BytesIO()
    strip.save(encoded, "JPEG", quality=QUALITY)
    return report, encoded.getvalue()
