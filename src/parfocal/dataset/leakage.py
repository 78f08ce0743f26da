"""Slides of a cohort known again by their files: slides of two cohorts may have equal ids."""

import logging
from collections.abc import Mapping
from pathlib import Path

from parfocal.dataset.cohort import Cohort, CohortError, CohortSlide, Part
from parfocal.features.errors import StoreError
from parfocal.features.store import FeatureFile, feature_path
from parfocal.slide.slide import fingerprint_of

OTHER_COHORT = "if the table is of another cohort than the run's, say --external"

logger = logging.getLogger(__name__)


def fingerprint(slide: CohortSlide, features: Path | None) -> str | None:
    """Tell a slide's file from all others, wherever it lies; None where it cannot be read.

    Args:
        slide: which.
        features: folder of feature files, which tell it, too; None to read the slide's own.
    """
    try:
        if features is None:
            return fingerprint_of(slide.path)
        return FeatureFile(feature_path(features, slide.slide_id)).fingerprint
    except (OSError, StoreError):
        return None


def refuse_other_files(
    cohort: Cohort, known: Mapping[str, str], features: Path | None = None
) -> None:
    """Refuse slides that have the id of one a run has seen, but are other files.

    Args:
        cohort: the slides; one whose file cannot be read is none of them.
        known: fingerprints of what the run has seen, by slide id.
        features: as of `fingerprint`.

    Raises:
        CohortError: there are any, so the ids do not tell what the run has seen.
    """
    now = {s: fingerprint(s, features) for s in cohort.slides if s.slide_id in known}
    others = [s for s, found in now.items() if found not in (None, known[s.slide_id])]
    if others:
        first = others[0]
        raise CohortError(
            f"{cohort.source.name} row {first.row}: slide_id {first.slide_id!r} is of a slide the "
            f"run has seen in training, but {first.path} is another file ({len(others)} of "
            f"{len(now)} such ids); {OTHER_COHORT}; if files were converted since, take them out."
        )


def warn_of_parts(cohort: Cohort, parts: Mapping[str, Part]) -> None:
    """Tell where a table's own split would test on what the run has seen, or not on the rest.

    Args:
        cohort: the slides.
        parts: in which part of the run they stood, by slide id.
    """
    differing = [
        slide
        for slide in cohort.slides
        if slide.split is not None
        and (slide.split == "test") != (parts.get(slide.slide_id, slide.split) == "test")
    ]
    if differing:
        first = differing[0]
        logger.warning(
            "%s row %d: slide %s is in split %s there, and was in %s in the run, which counts (so "
            "with %d slides); %s.",
            *(cohort.source.name, first.row, first.slide_id, first.split),
            *(parts[first.slide_id], len(differing), OTHER_COHORT),
        )
