"""Detect training slides among the slides of a cohort by id, patient and file.

Slides of two cohorts may have equal ids, so files are compared by fingerprint.
"""

import logging
from collections.abc import Mapping

from parfocal.dataset.cohort import Cohort, CohortError, CohortSlide, Part
from parfocal.dataset.same_file import refuse_equal_contents, refuse_equal_fingerprints
from parfocal.features.errors import StoreError
from parfocal.features.open_folder import Features, open_features
from parfocal.slide.errors import SlideError
from parfocal.slide.identity import file_fingerprint

EXTERNAL_HINT = "if the table is another cohort than the one of the run, use --external"

logger = logging.getLogger(__name__)


def slide_fingerprint(slide: CohortSlide, features: Features | None) -> str | None:
    """Return the fingerprint of a slide file, which does not depend on its path.

    Args:
        slide: the slide.
        features: folder of features; ours store the fingerprint. None to read the slide file.

    Returns:
        The fingerprint; None where the file cannot be read.
    """
    try:
        if features is None:
            return file_fingerprint(slide.path)
        return open_features(features).fingerprint(slide)
    except (OSError, ValueError, SlideError, StoreError):
        return None


def refuse_copies(cohort: Cohort, features: Features | None = None) -> None:
    """Raise if a slide file is in a cohort twice, under two names.

    Args:
        cohort: the slides; those that cannot be read are ignored.
        features: folder of features, whose fingerprints are compared; None to compare the slide
            files.

    Raises:
        CohortError: a slide file is a copy of another.
    """
    if features is None:
        refuse_equal_contents(cohort.source, cohort.slides)
    else:
        fingerprints = ((slide, slide_fingerprint(slide, features)) for slide in cohort.slides)
        refuse_equal_fingerprints(cohort.source, fingerprints)


def refuse_other_files(
    cohort: Cohort, fingerprints: Mapping[str, str], features: Features | None = None
) -> None:
    """Raise if a slide has the id of a slide of the run but another file.

    Args:
        cohort: the slides; those that cannot be read are ignored.
        fingerprints: fingerprint of each slide of the run that was used in training, by slide id.
        features: folder of features; None to read the slide files.

    Raises:
        CohortError: there are such slides, so ids do not identify the training slides.
    """
    same_id = [slide for slide in cohort.slides if slide.slide_id in fingerprints]
    others = [
        slide
        for slide in same_id
        if slide_fingerprint(slide, features) not in (None, fingerprints[slide.slide_id])
    ]
    if others:
        first = others[0]
        raise CohortError(
            f"{cohort.source.name} row {first.row}: slide_id {first.slide_id!r} was used in "
            f"training, but {first.path} is another file ({len(others)} of {len(same_id)} such "
            f"ids); {EXTERNAL_HINT}; if files were converted since, remove them."
        )


def warn_of_changed_parts(cohort: Cohort, parts: Mapping[str, Part]) -> None:
    """Log a warning where the split column disagrees with the run about the test slides.

    Args:
        cohort: the slides.
        parts: part of each slide in the run, by slide id.
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
            "%s row %d: slide %s has split %s, but it was in %s in the run, which takes precedence "
            "(%d such slides); %s.",
            *(cohort.source.name, first.row, first.slide_id, first.split),
            *(parts[first.slide_id], len(differing), EXTERNAL_HINT),
        )
