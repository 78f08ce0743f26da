"""Read the cells of target columns."""

import math
from collections.abc import Sequence

from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.dataset.spelling import is_missing

OF_CLASSES = " For classes, use --task classification."
OF_TIMES = " A time is a number in any unit, without the unit."
# As people and spreadsheets write them; "1:DECEASED" as in the tables of cBioPortal.
TRUE, FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


def cell(slide: CohortSlide, column: str) -> str:
    """Return the text of a target column; empty if the value is missing."""
    text = slide.values.get(column, "").strip()
    return "" if is_missing(text) else text


def number(slide: CohortSlide, column: str, hint: str = OF_CLASSES) -> float:
    """Return the number in a target column; NaN if the value is missing.

    Args:
        slide: row of the cohort.
        column: the column.
        hint: last sentence of the message, after a space.

    Raises:
        CohortError: the cell is not a finite number.
    """
    text = cell(slide, column)
    if not text:
        return math.nan
    try:
        value = float(text.replace(",", "."))  # spreadsheets of many countries write 0,25
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise CohortError(
            f"row {slide.row}: {column} {text!r} is not a number; correct the cell, or leave it "
            f"empty if the value is missing.{hint}"
        )
    return value


def refuse_mixed_decimals(slides: Sequence[CohortSlide], columns: Sequence[str]) -> None:
    """Refuse a column of numbers of which some have a decimal comma and others a decimal point.

    Raises:
        CohortError: a comma may separate thousands.
    """
    for column in columns:
        comma, point = (
            next((slide for slide in slides if mark in cell(slide, column)), None) for mark in ",."
        )
        if comma is not None and point is not None:
            raise CohortError(
                f"row {comma.row}: {column} {cell(comma, column)!r} has a comma, and "
                f"{cell(point, column)!r} of row {point.row} a decimal point; write all numbers of "
                "a column in the same way, without thousands separators."
            )


def duration(slide: CohortSlide, column: str) -> float:
    """Return the time in a column; NaN if it is missing.

    Raises:
        CohortError: the cell is not a positive number.
    """
    value = number(slide, column, hint=OF_TIMES)
    if value <= 0:
        raise CohortError(
            f"row {slide.row}: {column} is {value:g}, but a time until the event or the last visit "
            "has to be above 0; correct the cell or remove the row."
        )
    return value


def flag(slide: CohortSlide, column: str, *, meaning: tuple[str, str] = ("no", "yes")) -> float:
    """Return 0 or 1 of a column; NaN if it is missing.

    Args:
        slide: row of the cohort.
        column: the column.
        meaning: what 0 and 1 mean, for the message.

    Raises:
        CohortError: the cell is neither.
    """
    text = cell(slide, column)
    if not text:
        return math.nan
    plain = text.casefold().partition(":")[0].strip()
    if plain in TRUE:
        return 1.0
    if plain in FALSE:
        return 0.0
    raise CohortError(
        f"row {slide.row}: {column} {text!r} is neither 0 ({meaning[0]}) nor 1 ({meaning[1]}); "
        "correct the cell."
    )


def refuse_missing(slide: CohortSlide, columns: tuple[str, ...]) -> None:
    """Refuse a slide without any value in some columns.

    Raises:
        CohortError: all the cells are empty.
    """
    if not any(cell(slide, column) for column in columns):
        raise CohortError(
            f"row {slide.row}: {', '.join(columns)} "
            f"{'is' if len(columns) == 1 else 'are all'} missing for slide {slide.slide_id}; add "
            "the value or remove the row."
        )
