"""Read the true labels, outlines and paths of slides from cohort tables and run splits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parfocal.dataset.cohort import read_slides
from parfocal.dataset.outlines_file import OutlinesFile
from parfocal.dataset.split import read_split
from parfocal.files import is_file, is_folder, path_exists
from parfocal.printable import printable
from parfocal.slide.failure import catch_failure
from parfocal.slide.sources.url import SlidePath


class LibraryError(Exception):
    """Predictions or slides that cannot be shown."""


@dataclass(frozen=True)
class Truth:
    """The true label of a slide, with its outlines and path from a cohort table.

    Args:
        label: true class.
        outlines: the lesions.
        path: the slide file.
        patient: the patient; None if no table names one.
    """

    label: str | None = None
    outlines: OutlinesFile | None = None
    path: SlidePath | None = None
    patient: str | None = None


def read_truths(
    paths: Sequence[Path], cohort: Path | None, problems: list[str]
) -> dict[str, Truth]:
    """Read the true labels of slides, by slide id.

    Args:
        paths: folders whose cohort tables (`cohort.csv`) and run splits (`split.csv`) are read.
        cohort: a further cohort table.
        problems: where to add messages about tables in the folders that cannot be read.

    Raises:
        LibraryError: tables disagree on the label of a slide.
        CohortError: the further cohort table is invalid.
    """
    truths: dict[str, tuple[Truth, Path]] = {}
    if cohort is not None:
        _add_cohort(truths, cohort)
    folders = [path for path in paths if is_folder(path)]
    for pattern, add in (("cohort.csv", _add_cohort), ("split.csv", _add_split)):
        for file in (file for folder in folders for file in files_in(folder, pattern)):
            with catch_failure(str(file)) as attempt:
                add(truths, file)
            if isinstance(attempt.error, LibraryError):
                raise attempt.error
            if attempt.reason is not None:
                problems.append(f"{printable(file.name)}: no labels from it; {attempt.reason}")
    return {slide_id: truth for slide_id, (truth, _) in truths.items()}


def _add_cohort(truths: dict[str, tuple[Truth, Path]], table: Path) -> None:
    require_file(table)
    for slide in read_slides(table):
        patient = slide.patient_id if slide.patient_id != slide.slide_id else None
        truth = Truth(slide.label or None, slide.outlines, slide.path, patient)
        _add_truth(truths, slide.slide_id, truth, table)


def _add_split(truths: dict[str, tuple[Truth, Path]], table: Path) -> None:
    require_file(table)
    for row in read_split(table):
        patient = row.patient_id if row.patient_id != row.slide_id else None
        _add_truth(truths, row.slide_id, Truth(row.label, patient=patient), table)


def _add_truth(
    truths: dict[str, tuple[Truth, Path]], slide_id: str, truth: Truth, table: Path
) -> None:
    first, first_table = truths.setdefault(slide_id, (truth, table))
    patient = first.patient or truth.patient
    if truth.patient not in (None, patient):
        raise LibraryError(
            f"{slide_id}: of patient {first.patient!r} in {first_table} and {truth.patient!r} in "
            f"{table}; correct one of them, or show their predictions separately."
        )
    if first.label is None or truth.label is None:  # a table without labels
        label = first.label or truth.label
        merged = Truth(label, first.outlines or truth.outlines, first.path or truth.path, patient)
        truths[slide_id] = merged, first_table
    elif first.label != truth.label:
        raise LibraryError(
            f"{slide_id}: labeled {first.label!r} in {first_table} and {truth.label!r} in {table}; "
            "correct one of them, or view their predictions separately."
        )
    else:
        truths[slide_id] = replace(first, patient=patient), first_table


def require_file(path: Path) -> None:
    """Raise if a path is no file, such as a pipe, for whose writer reading would wait.

    Raises:
        LibraryError: the path is not a file.
    """
    if path_exists(path) and not is_file(path):
        raise LibraryError(f"{path}: not a file; remove it.")


def files_in(path: Path, pattern: str) -> list[Path]:
    """Return the matching files in a folder, or if it has none, in its direct subfolders.

    A path that is a file is returned whatever its name.
    """
    if is_file(path):
        return [path]
    return sorted(path.glob(pattern)) or sorted(path.glob(f"*/{pattern}"))
