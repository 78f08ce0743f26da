"""Group the slides of a cohort by patient.

A patient is one entry of the cohort, as a slide is, whose `slides` are its slides. So whatever
splits, samples, trains on or evaluates the entries of a cohort does the same with patients.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from parfocal.dataset.cohort import Cohort, CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.dataset.rows import unusable_name
from parfocal.dataset.spelling import is_missing


def group_patients(cohort: Cohort) -> Cohort:
    """Return a cohort with one entry per patient, in the order of their first slides.

    Args:
        cohort: the slides.

    Raises:
        CohortError: slides of a patient differ in the class, in a value or in the part of the
            split, or the id of a patient cannot be the name of a file.
    """
    return replace(cohort, slides=group_slides(cohort.slides, cohort.source.name))


def group_slides(slides: Sequence[CohortSlide], source: str) -> tuple[CohortSlide, ...]:
    """Return one entry per patient, in the order of their first slides.

    Args:
        slides: the slides.
        source: name of their table, for messages.

    Raises:
        CohortError: see `group_patients`.
    """
    by_patient: dict[str, list[CohortSlide]] = {}
    for slide in slides:
        by_patient.setdefault(slide.patient_id, []).append(slide)
    return tuple(_patient(name, group, source) for name, group in by_patient.items())


def slides_of(entries: Iterable[CohortSlide]) -> tuple[CohortSlide, ...]:
    """Return the slides of entries of a cohort: the slides of a patient, and a slide itself."""
    return tuple(slide for entry in entries for slide in (entry.slides or (entry,)))


def keep_slides(entry: CohortSlide, keep: Callable[[CohortSlide], bool]) -> CohortSlide | None:
    """Return an entry of a cohort with some of its slides; None if none is left.

    Args:
        entry: a patient or a slide.
        keep: whether to keep a slide.
    """
    kept = tuple(slide for slide in slides_of([entry]) if keep(slide))
    if not kept:
        return None
    return replace(entry, slides=kept) if entry.slides else entry


def name_patients(unreadable: Mapping[str, str], slides: Iterable[CohortSlide]) -> dict[str, str]:
    """Return the reasons of slides under names that say which patient they are of.

    Args:
        unreadable: reason of each slide, by slide id.
        slides: slides of a cohort.
    """
    patients = {slide.slide_id: slide.patient_id for slide in slides}
    return {
        f"{slide_id} of patient {patients.get(slide_id, slide_id)}": reason
        for slide_id, reason in unreadable.items()
    }


def _patient(patient_id: str, slides: Sequence[CohortSlide], source: str) -> CohortSlide:
    """Return the entry of a patient."""
    first = slides[0]
    if problem := unusable_name(patient_id):
        raise CohortError(
            f"{source} row {first.row}: patient_id {patient_id!r} {problem}, and files are named "
            "after it; write it in another way."
        )
    # Without classes, the column `label` is not a target, so slides may differ in it.
    own = () if first.group is not None else ("label",)
    for attribute in (*own, "split", "fold", "fold_parts"):
        for slide in slides[1:]:
            _refuse_difference(
                source,
                attribute,
                first,
                slide,
                (getattr(first, attribute), getattr(slide, attribute)),
            )
    strata = {slide.stratum for slide in slides}
    return replace(
        first,
        slide_id=patient_id,
        label=first.label if len({slide.label for slide in slides}) == 1 else "",
        mpp=None,
        stratum=first.stratum if len(strata) == 1 else None,
        tissue=None,
        outlines=None,
        values={column: _value(source, column, slides) for column in first.values},
        slides=tuple(slides),
    )


def _value(source: str, column: str, slides: Sequence[CohortSlide]) -> str:
    """Return the one value that the slides of a patient have in a column; some may lack it."""
    known = [slide for slide in slides if not is_missing(slide.values[column])]
    for slide in known[1:]:
        _refuse_difference(
            source, column, known[0], slide, (known[0].values[column], slide.values[column])
        )
    return (known or slides)[0].values[column]


def _refuse_difference(
    source: str, what: str, first: CohortSlide, other: CohortSlide, values: tuple[object, object]
) -> None:
    one, another = values
    if one == another:
        return
    raise CohortError(
        f"{source} row {other.row}: patient {first.patient_id!r} has {what} {another!r} on slide "
        f"{other.slide_id} and {one!r} on slide {first.slide_id} (row {first.row}); a patient has "
        "one, so correct a row, or leave --per patient out."
    )
