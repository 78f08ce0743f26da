"""Read the true labels, outlines and paths of slides from cohort tables and run splits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.cohort import read_cohort
from parfocal.dataset.split import read_split


class LibraryError(Exception):
    """Predictions or slides that cannot be shown."""


@dataclass(frozen=True)
class Truth:
    """The true label of a slide, with its outlines and path from a cohort table.

    Args:
        label: true class.
        outlines: file with outlines of the lesions.
        path: the slide file.
    """

    label: str | None = None
    outlines: Path | None = None
    path: Path | None = None


def read_truths(paths: Sequence[Path], cohort: Path | None) -> dict[str, Truth]:
    """Read the true labels of slides, by slide id.

    Args:
        paths: folders whose cohort tables (`cohort.csv`) and run splits (`split.csv`) are read.
        cohort: a further cohort table.

    Raises:
        LibraryError: tables disagree on the label of a slide.
        CohortError: a cohort table is invalid.
    """
    tables = [cohort] if cohort else []
    tables += [file for path in paths if path.is_dir() for file in files_in(path, "cohort.csv")]
    splits = [file for path in paths if path.is_dir() for file in files_in(path, "split.csv")]
    truths: dict[str, tuple[Truth, Path]] = {}
    for table in tables:
        for slide in read_cohort(table).slides:
            _add_truth(
                truths, slide.slide_id, Truth(slide.label, slide.outlines, slide.path), table
            )
    for split in splits:
        for row in read_split(split):
            _add_truth(truths, row.slide_id, Truth(row.label), split)
    return {slide_id: truth for slide_id, (truth, _) in truths.items()}


def _add_truth(
    truths: dict[str, tuple[Truth, Path]], slide_id: str, truth: Truth, table: Path
) -> None:
    first, first_table = truths.setdefault(slide_id, (truth, table))
    if first.label != truth.label:
        raise LibraryError(
            f"{slide_id}: labeled {first.label!r} in {first_table} and {truth.label!r} in {table}; "
            "correct one of them, or view their predictions separately."
        )


def files_in(path: Path, pattern: str) -> list[Path]:
    """Return the matching files in a folder, or if it has none, in its direct subfolders.

    A path that is a file is returned whatever its name.
    """
    if path.is_file():
        return [path]
    return sorted(path.glob(pattern)) or sorted(path.glob(f"*/{pattern}"))
