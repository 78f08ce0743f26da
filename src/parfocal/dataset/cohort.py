"""Read a cohort: slides with their labels, from a CSV file or an .xlsx workbook.

The whole table is checked before any slide is opened.
"""

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parfocal.dataset.cohort_slide import PARTS, CohortSlide, Part
from parfocal.dataset.columns import fold_columns
from parfocal.dataset.errors import CohortError
from parfocal.dataset.outlines_file import OutlinesFile, parse_outlines
from parfocal.dataset.rows import (
    IDENTIFYING,
    file_exists,
    find_file,
    find_slide,
    missing_files_error,
    read_rows,
)
from parfocal.dataset.same_file import refuse_one_file_twice
from parfocal.dataset.spelling import (
    find_variants,
    is_missing,
    labels_option,
    plain_form,
    plain_label,
)
from parfocal.printable import counted, counts_of_each
from parfocal.slide.resolution import MAX_MPP, MIN_MPP
from parfocal.slide.sources.url import RemoteAccess, SlidePath, UrlError

__all__ = [
    "PARTS",
    "Cohort",
    "CohortError",
    "CohortSlide",
    "Part",
    "read_cohort",
    "read_slides",
    "require_files",
    "without_slides",
]

MAX_CLASSES = 20  # listed in a summary
MAX_RARE = 10  # largest number of classes of which most may have a single slide

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cohort:
    """Labeled slides.

    Args:
        source: the table.
        slides: its rows, in order.
        labels: the classes, in the order of a model's logits; empty where the task has none.
    """

    source: Path
    slides: tuple[CohortSlide, ...]
    labels: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The classes with their numbers of slides, and the number of patients, in one line."""
        if not self.labels:
            return _count_patients(self.slides)
        counts = Counter(slide.label for slide in self.slides)
        listed = counts_of_each({label: counts[label] for label in self.labels[:MAX_CLASSES]})
        more = ", ..." if len(self.labels) > MAX_CLASSES else ""
        unlabeled = len(self.slides) - sum(counts[label] for label in self.labels)
        without = f"; {counted(unlabeled, 'slide')} without a label" if unlabeled else ""
        classes = counted(len(self.labels), "class", "classes")
        return f"{classes}: {listed}{more}{without} ({_count_patients(self.slides)})"


def read_cohort(
    path: Path,
    *,
    labels: Sequence[str] | None = None,
    label_column: str = "label",
    columns: Sequence[str] = (),
    access: RemoteAccess | None = None,
) -> Cohort:
    """Read a cohort from a table with the columns slide_id, path and label.

    Optional columns are patient_id, mpp, split (train, val, test) or fold (whole numbers) or
    fold_0, fold_1... (train, val, test in each fold), stratum, tissue, outlines and
    outlines_offset; other columns are ignored. Slide files need not exist: see `require_files`. The
    classes and their numbers of slides are logged.

    Args:
        path: a CSV file, or an .xlsx workbook of which the first sheet is read; the first row is
            the header.
        labels: the classes in order, for example those of a trained model; None for the labels in
            the table, sorted. A class called `NA` or `None` has to be given here: a word for a
            missing value is no class otherwise.
        label_column: column of the class.
        columns: further columns that the table must have; see `CohortSlide.values`.
        access: how remote slides are read; None for the defaults.

    Raises:
        CohortError: the table cannot be read, or a row is invalid.
    """
    slides = _read_slides(path, columns, access, label_column)
    _refuse_missing_labels(path, slides, labels or (), label_column)
    found = tuple(sorted({slide.label for slide in slides}))
    if labels is None:
        _refuse_variants(path, slides, [slide.label for slide in slides], "label", label_column)
        _refuse_odd_classes(path, found, len(slides), label_column)
    else:
        _refuse_unknown_labels(path, slides, labels, label_column)
    refuse_one_file_twice(path, slides)
    cohort = Cohort(path, slides, tuple(labels) if labels is not None else found)
    logger.info("%s: %s", path.name, cohort.summary)
    return cohort


def read_slides(
    path: Path,
    *,
    columns: Sequence[str] = (),
    access: RemoteAccess | None = None,
    quiet: bool = False,
) -> tuple[CohortSlide, ...]:
    """Read the slides of a cohort; labels are neither needed nor checked.

    Args:
        path: a table with the columns slide_id and path, and optionally those of `read_cohort`.
        columns: further columns that the table must have; see `CohortSlide.values`.
        access: how remote slides are read; None for the defaults.
        quiet: whether to log nothing; if False, the numbers of slides and labels are logged.

    Raises:
        CohortError: the table cannot be read, or a row is invalid.
    """
    slides = _read_slides(path, columns, access)
    refuse_one_file_twice(path, slides)
    labels = tuple(sorted({slide.label for slide in slides if not is_missing(slide.label)}))
    if not quiet:
        logger.info("%s: %s", path.name, Cohort(path, slides, labels).summary)
    return slides


def without_slides(cohort: Cohort, left_out: Collection[str]) -> Cohort:
    """Return a cohort without some slides.

    Args:
        cohort: the slides.
        left_out: ids of slides.

    Raises:
        CohortError: no slide is left.
    """
    remaining = tuple(slide for slide in cohort.slides if slide.slide_id not in left_out)
    if not remaining:
        raise CohortError(
            f"{cohort.source.name}: none of the {len(cohort.slides)} slides can be read; the log "
            "has the reason for each."
        )
    return replace(cohort, slides=remaining)


def require_files(source: Path, files: Iterable[tuple[CohortSlide, SlidePath]], kind: str) -> None:
    """Check that files exist; URLs are not checked.

    Args:
        source: the table of the cohort, for the message.
        files: each file with the slide that needs it.
        kind: what a file is, as "slide file".

    Raises:
        CohortError: files are missing; the message lists the first ones and counts them.
    """
    missing = [
        (slide.row, path)
        for slide, path in files
        if isinstance(path, Path) and not file_exists(path)
    ]
    if missing:
        raise missing_files_error(source, missing, kind)


def _read_slides(
    path: Path,
    columns: Sequence[str],
    access: RemoteAccess | None,
    label_column: str | None = None,
) -> tuple[CohortSlide, ...]:
    """Read the slides of a table; the label is needed if its column is named."""
    required = list(dict.fromkeys([*IDENTIFYING, *filter(None, [label_column]), *columns]))
    rows = read_rows(path, required)
    label = label_column or "label"
    cells = [(number, {**row, "label": row.get(label, "")}) for number, row in rows]
    folds = fold_columns(rows[0][1])
    slides = tuple(
        replace(
            _slide(path, number, row, folds, access),
            values={column: row[column] for column in columns},
        )
        for number, row in cells
    )
    outlined = ((slide, slide.outlines.path) for slide in slides if slide.outlines)
    require_files(path, outlined, "outlines file")
    masked = ((slide, slide.tissue) for slide in slides if slide.tissue)
    require_files(path, masked, "tissue file")
    patients = [slide.patient_id for slide in slides if slide.patient_id != slide.slide_id]
    _refuse_variants(path, slides, patients, "patient_id")
    if patients and len(patients) < len(slides):
        unknown = sum(is_missing(row.get("patient_id", "")) for _, row in rows)
        if unknown:
            logger.warning(
                "%s: %d of %d slides have no patient_id; each counts as a patient of its own",
                *(path.name, unknown, len(slides)),
            )
    return slides


def _count_patients(slides: Sequence[CohortSlide]) -> str:
    count = counted(len(slides), "slide")
    if all(slide.patient_id == slide.slide_id for slide in slides):
        return f"{count}, patients not given"
    patients = len({slide.patient_id for slide in slides})
    return f"{count} of {counted(patients, 'patient')}"


def _refuse_missing_labels(
    path: Path, slides: Sequence[CohortSlide], labels: Sequence[str], column: str
) -> None:
    missing = [slide for slide in slides if is_missing(slide.label) and slide.label not in labels]
    if not missing:
        return
    first, others = missing[0], len(missing) - 1
    more = f" (and {others} more row{'s' * (others > 1)})" if others else ""
    if not first.label:
        raise CohortError(
            f"{path.name} row {first.row}: {column} is empty{more}; every slide needs one."
        )
    known = sorted({slide.label for slide in slides if not is_missing(slide.label)})
    option = labels_option([first.label, *known][:MAX_CLASSES])
    raise CohortError(
        f"{path.name} row {first.row}: {column} {first.label!r} means a missing value{more}; give "
        f"the slide a class or remove the row. If it is a class, say so: {option}."
    )


def _refuse_odd_classes(path: Path, classes: Sequence[str], slides: int, column: str) -> None:
    """Refuse a single class, and a column of numbers or names that are not classes."""
    if len(classes) == 1:
        raise CohortError(
            f"{path.name}: every slide has the {column} {classes[0]!r}, and a classifier needs at "
            "least two classes; add slides of another class."
        )
    if len(classes) > max(MAX_RARE, slides / 2):
        raise CohortError(
            f"{path.name}: {column} has {len(classes)} different values on {slides} slides, such "
            f"as {classes[0]!r}, so it is not a column of classes; use another column, or --task "
            "regression for numbers."
        )


def _refuse_variants(
    path: Path,
    slides: Sequence[CohortSlide],
    texts: Sequence[str],
    attribute: str,
    column: str | None = None,
) -> None:
    form = plain_label if attribute == "label" else plain_form
    variants = find_variants(dict.fromkeys(texts), form=form)
    if variants is None:
        return
    hint = " If these are two classes, list all in train.labels." if attribute == "label" else ""
    rows = [
        next(slide.row for slide in slides if getattr(slide, attribute) == text)
        for text in variants
    ]
    raise CohortError(
        f"{path.name} row {rows[1]}: {column or attribute} {variants[1]!r} is {variants[0]!r} of "
        f"row {rows[0]} but for case, spaces or characters that look the same; write both in one "
        f"way.{hint}"
    )


def _refuse_unknown_labels(
    path: Path, slides: Sequence[CohortSlide], labels: Sequence[str], column: str
) -> None:
    unknown = [slide for slide in slides if slide.label not in labels]
    if not unknown:
        return
    first = unknown[0]
    where = f"{path.name} row {first.row}: unknown {column} {first.label!r}; the classes are "
    meant = [label for label in labels if plain_form(label) == plain_form(first.label)]
    if meant:
        raise CohortError(f"{where}{', '.join(labels)}; write {meant[0]!r}.")
    counts = Counter(slide.label for slide in unknown)
    listed = counts_of_each(counts)
    raise CohortError(
        f"{where}{', '.join(labels)}. A model cannot predict a class that it was not trained on "
        f"({listed}); remove these slides, or train with their classes."
    )


def _slide(
    path: Path,
    number: int,
    row: dict[str, str],
    folds: Sequence[str],
    access: RemoteAccess | None,
) -> CohortSlide:
    where, folder = f"{path.name} row {number}", path.parent
    tissue = _value(row, "tissue")
    try:
        slide_path = find_slide(folder, row["path"], access)
    except UrlError as error:
        raise CohortError(f"{where}: {error}") from None
    return CohortSlide(
        slide_id=row["slide_id"],
        path=slide_path,
        label=row.get("label", ""),
        patient_id=_value(row, "patient_id") or row["slide_id"],
        row=number,
        mpp=_mpp(where, _value(row, "mpp")),
        split=_split(where, row["split"]) if "split" in row else None,
        fold=_fold(where, row["fold"]) if "fold" in row else None,
        fold_parts=tuple(_fold_part(where, name, row[name]) for name in folds),
        stratum=row.get("stratum") or None,
        tissue=find_file(folder, tissue) if tissue else None,
        outlines=_outlines(where, folder, row),
    )


def _value(row: dict[str, str], column: str) -> str:
    """Return the cell of an optional column; empty if it has a word for a missing value."""
    text = row.get(column, "")
    return "" if is_missing(text) else text


def _outlines(where: str, folder: Path, row: dict[str, str]) -> OutlinesFile | None:
    text = _value(row, "outlines")
    if not text:
        return None
    try:
        return parse_outlines(
            text, _value(row, "outlines_offset"), lambda name: find_file(folder, name)
        )
    except ValueError as error:
        raise CohortError(f"{where}: {error}.") from None


def _mpp(where: str, text: str) -> float | None:
    if not text:
        return None
    try:
        mpp = float(text.replace(",", "."))  # spreadsheets of many countries write 0,25
    except ValueError:
        mpp = math.nan
    if not MIN_MPP <= mpp <= MAX_MPP:
        raise CohortError(
            f"{where}: mpp {text!r} is not a number of microns per pixel from {MIN_MPP:g} to "
            f"{MAX_MPP:g} (a 40x scan is about 0.25, 20x about 0.5); correct the cell, or leave it "
            "empty to use the file's."
        )
    return mpp


def _split(where: str, text: str) -> Part:
    for part in PARTS:
        if text.lower() == part:
            return part
    raise CohortError(f"{where}: unknown split {text!r}; use {', '.join(PARTS)}.")


def _fold_part(where: str, column: str, text: str) -> Part | None:
    if is_missing(text):
        return None
    for part in PARTS:
        if text.lower() == part:
            return part
    raise CohortError(
        f"{where}: {column} {text!r} is no part; use {', '.join(PARTS)}, or an empty cell to leave "
        "the slide out of the fold."
    )


def _fold(where: str, text: str) -> int:
    if not text.isdecimal():
        raise CohortError(f"{where}: fold {text!r} is not a whole number; count folds from 0.")
    return int(text)
