"""Match tissue files to slides, by a table, by name, or one to one."""

import logging
from collections.abc import Sequence
from pathlib import Path

from parfocal.dataset.cohort import read_slides
from parfocal.dataset.errors import CohortError
from parfocal.dataset.table import WORKBOOKS
from parfocal.slide.given_tissue import find_tissue_file
from parfocal.slide.identity import slide_id
from parfocal.slide.sources.url import SlidePath, slide_key

TABLE_SUFFIXES = (".csv", ".tsv", *WORKBOOKS)

logger = logging.getLogger(__name__)


def match_tissue_files(source: Path, slides: Sequence[SlidePath]) -> dict[SlidePath, Path]:
    """Return the tissue file of each slide that has one.

    Args:
        source: a cohort table with a column `tissue`; a folder of files named after the slides, as
            TRIDENT's `contours_geojson`; or the tissue file of the only slide.
        slides: slide files.

    Raises:
        CohortError: `source` does not exist, has no file of any slide, or is one file for several
            slides.
    """
    if source.is_dir():
        files = {slide: find_tissue_file(source, slide_id(slide)) for slide in slides}
        matched = {slide: file for slide, file in files.items() if file is not None}
        advice = f"the file of a slide is called like it, as {slide_id(slides[0])}.geojson or .png"
    elif source.suffix.lower() in TABLE_SUFFIXES:
        rows = {slide_key(row.path): row.tissue for row in read_slides(source)}
        files = {slide: rows.get(slide_key(slide)) for slide in slides}
        matched = {slide: file for slide, file in files.items() if file is not None}
        advice = "fill its column `tissue` in the rows of these slides"
    elif not source.is_file():
        raise CohortError(f"{source}: no such tissue file or folder; correct the path.")
    elif len(slides) > 1:
        raise CohortError(
            f"{source}: one tissue file for {len(slides)} slides; give a folder of files named "
            "after the slides, or a cohort table with a column `tissue`."
        )
    else:
        return {slides[0]: source}
    if not matched:
        raise CohortError(f"{source}: no tissue file of the {len(slides)} slides; {advice}.")
    if len(matched) < len(slides):
        logger.warning(
            "%s: tissue files of %d of %d slides; on the others, the tissue is found",
            source,
            len(matched),
            len(slides),
        )
    return matched
