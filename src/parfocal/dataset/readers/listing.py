"""List the slides of a public data set from its own label files, without opening a slide.

A reader, one file per data set, turns the folder as published into a `Listing`. What is the same
for every data set (file checks, outlines, the cohort CSV) works on the listing.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from parfocal.dataset.cohort import Cohort, CohortError, CohortSlide, Part
from parfocal.dataset.split import split_cohort


@dataclass(frozen=True)
class Source:
    """Where to get a data set.

    Args:
        name: the official name.
        address: web page or object store to download from.
        license: the license terms in a few words.
        size: size of the full download, in words.
    """

    name: str
    address: str
    license: str
    size: str

    @property
    def download_hint(self) -> str:
        """Where to download the data set, its license and its size, in one line."""
        return f"{self.name} is at {self.address}; {self.license}; {self.size}"

    def error(self, where: Path | str, problem: str) -> CohortError:
        """Return an error with the problem and the place to download the data set from."""
        return CohortError(f"{where}: {problem}. {self.download_hint}.")


@dataclass(frozen=True)
class Row:
    """A slide, or a region of a slide, as listed in the label files of a data set.

    Args:
        slide_id: id in the cohort.
        path: the slide file, which may be missing.
        label: the class.
        patient_id: the patient; empty where the data set does not publish patients.
        mpp: microns per pixel, for files without it; None to use the file's.
        split: the part; None to split at training time.
        stratum: a group to report separately; empty for none.
        annotations: ASAP XML of the lesions; None where there are no annotations.
        region: the top-left corner, in level-0 pixels, of a region to crop; None for the whole
            slide.
    """

    slide_id: str
    path: Path
    label: str
    patient_id: str = ""
    mpp: float | None = None
    split: Part | None = None
    stratum: str = ""
    annotations: bytes | None = None
    region: tuple[float, float] | None = None


@dataclass(frozen=True)
class Listing:
    """The slides of a data set, with the published sizes and checksums of their files.

    Args:
        rows: the slides, in the order of the label file.
        absent: number of published slides that the label files do not list.
        notes: messages for the user: which slides were excluded, which choices were made.
        sizes: published file sizes, in bytes.
        sums: published MD5 checksums.
    """

    rows: tuple[Row, ...]
    absent: int = 0
    notes: tuple[str, ...] = ()
    sizes: Mapping[Path, int] = field(default_factory=dict)
    sums: Mapping[Path, str] = field(default_factory=dict)


class Reader(Protocol):
    """A function that lists a data set."""

    def __call__(self, folder: Path, seed: int) -> Listing:
        """List the slides of a folder; the seed decides every random choice."""


def read_table(
    source: Source, path: Path, columns: Sequence[str], *, delimiter: str = ","
) -> list[dict[str, str]]:
    """Read a label file with a header; column names are converted to lower case.

    Raises:
        CohortError: the file is missing, is not text, or lacks one of the columns.
    """
    try:
        # utf-8-sig: some were saved by spreadsheets, which write a byte-order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, delimiter=delimiter) if any(line)]
    except FileNotFoundError:
        raise source.error(path, "no such label file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise source.error(path, f"not a text table ({error})") from None
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    missing = [column for column in columns if column not in header]
    if missing:
        raise source.error(
            path,
            f"no column {', '.join(missing)} (found: {', '.join(header) or 'nothing'}), so this is "
            "the label file of another release or data set",
        )
    return [dict(zip(header, map(str.strip, line), strict=False)) for line in lines[1:]]


def files_by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """Return the files with a suffix in a folder and below, by lower-case stem."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == suffix)
    return {path.stem.lower(): path for path in paths if not path.name.startswith(".")}


def refuse_unlisted(source: Source, labels: Path, unlisted: Iterable[str]) -> None:
    """Raise if the folder has slides that the label file does not list.

    Raises:
        CohortError: there are such slides, so slides and label file are from different releases.
    """
    names = sorted(unlisted)
    if names:
        raise source.error(
            labels,
            f"it does not list {len(names)} of the slides here ({', '.join(names[:5])}"
            f"{', ...' * (len(names) > 5)}), so it is the label file of another release",
        )


def hold_out(source: Source, rows: Sequence[Row], share: float, seed: int) -> set[str]:
    """Draw the slide ids of a share of the patients, stratified by class and stratum.

    Args:
        source: the data set, for messages.
        rows: the slides to draw from.
        share: share of the patients of each class, 0 to 1.
        seed: seed of the draw.

    Raises:
        CohortError: a class has a single patient.
    """
    slides = tuple(
        CohortSlide(
            slide_id=row.slide_id,
            path=row.path,
            label=row.label,
            patient_id=row.patient_id or row.slide_id,
            row=number,
            stratum=row.stratum or None,
        )
        for number, row in enumerate(rows, start=2)
    )
    labels = tuple(sorted({row.label for row in rows}))
    cohort = Cohort(Path(source.name), slides, labels)
    drawn = split_cohort(cohort, test_fraction=0, val_fraction=share, seed=seed).val
    return {slide.slide_id for slide in drawn}
