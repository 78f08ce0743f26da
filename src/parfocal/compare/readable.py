"""Find the slides that cannot be read before any model of a comparison is trained."""

from collections.abc import Sequence

from parfocal.compare.candidate import Candidate
from parfocal.compare.stores import Stores
from parfocal.dataset.cohort import Cohort
from parfocal.dataset.inputs import cohort_inputs
from parfocal.features.folder import OWN_TOOL
from parfocal.features.open_folder import open_features
from parfocal.slide.failure import catch_failure


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
    if all(slide.slide_id in unreadable for slide in cohort.slides):
        return unreadable  # a folder may have no feature file, and could not be opened
    for folder in {str(each): open_features(each) for each in stores.folders.values()}.values():
        extract = f"extract it with {folder.facts.tool}"
        if folder.facts.tool == OWN_TOOL:
            extract = "run `parfocal extract`"
        for slide in cohort.slides:
            for file in folder.files(slide):
                if not file.exists():
                    unreadable.setdefault(
                        slide.slide_id, f"there is no feature file {file}; {extract}"
                    )
    for candidate in candidates:
        if candidate.name not in stores.folders:
            _check_pixels(cohort, candidate, unreadable)
    return unreadable


def _check_pixels(cohort: Cohort, candidate: Candidate, unreadable: dict[str, str]) -> None:
    settings = candidate.settings
    if settings.model.traits.takes == "nothing":
        return
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
