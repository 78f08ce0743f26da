"""Find the slides that cannot be read before any model of a comparison is trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from parfocal.compare.candidate import Candidate, ComparisonError
from parfocal.compare.stores import Stores
from parfocal.dataset.cohort import Cohort
from parfocal.dataset.inputs import cohort_inputs
from parfocal.features.store import feature_path
from parfocal.slide.errors import name_failure
from parfocal.slide.failure import catch_failure

MAX_LISTED = 3  # slides in a message; the log has all of them


def find_unreadable(
    cohort: Cohort, candidates: Sequence[Candidate], stores: Stores
) -> dict[str, str]:
    """Return the reason of each slide that some model cannot read, by slide id.

    Args:
        cohort: the slides.
        candidates: the models.
        stores: their stored features. Slide files are opened only for models that take pixels.
    """
    unreadable = dict(stores.failed)
    for slide in cohort.slides:
        for folder in dict.fromkeys(stores.folders.values()):
            file = feature_path(folder, slide.slide_id)
            if not file.exists():
                unreadable.setdefault(
                    slide.slide_id, f"there is no feature file {file}; run `parfocal extract`"
                )
    for candidate in candidates:
        if candidate.name not in stores.folders:
            _check_pixels(cohort, candidate, unreadable)
    return unreadable


def refuse_unreadable(source: Path, unreadable: Mapping[str, str], total: int) -> None:
    """Refuse to compare without the slides that cannot be read.

    Args:
        source: the table of the cohort.
        unreadable: reason of each slide that cannot be read, by slide id.
        total: number of slides.

    Raises:
        ComparisonError: there are such slides.
    """
    if not unreadable:
        return
    failures = [name_failure(*each) for each in list(unreadable.items())[:MAX_LISTED]]
    listed = "; ".join(f"{failure.name}: {failure.reason.rstrip('.')}" for failure in failures)
    more = "; ..." if len(unreadable) > MAX_LISTED else ""
    raise ComparisonError(
        f"{source.name}: {len(unreadable)} of {total} slides cannot be read ({listed}{more}). "
        "Repair or remove them, or compare without them with --skip-unreadable."
    )


def _check_pixels(cohort: Cohort, candidate: Candidate, unreadable: dict[str, str]) -> None:
    settings = candidate.settings
    inputs = cohort_inputs(
        settings.slide,
        None,
        skip_unavailable_magnifications=settings.model.skip_unavailable_magnifications,
    )
    for slide in cohort.slides:
        with catch_failure(slide.slide_id) as attempt:
            inputs.check(slide)
        if attempt.reason is not None:
            unreadable.setdefault(slide.slide_id, attempt.reason)
