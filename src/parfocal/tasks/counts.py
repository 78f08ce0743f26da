"""How many slides have which target, in words: for the line about a cohort, and for warnings."""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.printable import counted, counts_of_each
from parfocal.tasks.cells import cell, flag, number

MAX_CLASSES = 8  # named in a line


def count_numbers(slides: Sequence[CohortSlide], column: str) -> str:
    """Return the range and the median of a column, and on how many slides it is missing."""
    known = [number(slide, column) for slide in slides if cell(slide, column)]
    parts = []
    if known:
        parts = [f"{min(known):.4g} to {max(known):.4g}", f"median {median(known):.4g}"]
    return _line(column, [*parts, *_missing(len(slides) - len(known))])


def count_flags(slides: Sequence[CohortSlide], column: str) -> str:
    """Return on how many slides a label is true, false and missing."""
    found = Counter(flag(slide, column) for slide in slides if cell(slide, column))
    missing = _missing(len(slides) - found.total())
    return _line(column, [f"{found[1.0]} yes", f"{found[0.0]} no", *missing])


def count_labels(slides: Sequence[CohortSlide], column: str) -> str:
    """Return how many slides have each class of a column."""
    found = Counter(cell(slide, column) for slide in slides)
    missing = found.pop("", 0)
    listed = counts_of_each(dict(sorted(found.items())[:MAX_CLASSES]))
    more = ["..."] * (len(found) > MAX_CLASSES)
    return _line(column, [*[listed] * bool(found), *more, *_missing(missing)])


def count_events(slides: Sequence[CohortSlide], time: str, event: str) -> str:
    """Return how many slides have an event or a censored time, and the range of the times."""
    known = [slide for slide in slides if cell(slide, time) and cell(slide, event)]
    events = [slide for slide in known if flag(slide, event) == 1]
    patients = len({slide.patient_id for slide in events})
    of_patients = f" ({counted(patients, 'patient')})" if patients < len(events) else ""
    found = [
        f"{counted(len(events), 'slide')} with an event{of_patients}",
        f"{len(known) - len(events)} censored",
        *_missing(len(slides) - len(known)),
    ]
    return f"{_line(event, found)}; {count_numbers(known, time)}"


def same_values(
    slides: Sequence[CohortSlide],
    columns: Sequence[str],
    read: Callable[[CohortSlide, str], float] = number,
) -> tuple[str, ...]:
    """Return which columns are missing, or the same, on all validation slides, in words.

    Args:
        slides: the validation slides.
        columns: names of the columns.
        read: reads the value of a cell.
    """
    texts = []
    for column in columns:
        found = {read(slide, column) for slide in slides if cell(slide, column)}
        if len(found) < 2:
            what = f"{found.pop():g}" if found else "missing"
            texts.append(f"{column} is {what} on {all_of(slides)}")
    return tuple(texts)


def all_of(slides: Sequence[CohortSlide]) -> str:
    """Return the end of "... is the same on all 4 validation slides"."""
    return (
        "the only validation slide" if len(slides) == 1 else f"all {len(slides)} validation slides"
    )


def none_of(slides: Sequence[CohortSlide]) -> str:
    """Return the start of "none of the 4 validation slides has an event"."""
    if len(slides) == 1:
        return "the only validation slide does not have"
    return f"none of the {len(slides)} validation slides has"


def _line(column: str, parts: Sequence[str]) -> str:
    return f"{column}: {', '.join(parts)}"


def _missing(count: int) -> list[str]:
    return [f"{count} missing"] if count else []
