"""What a data set's own files say of its slides, before any slide is looked at.

A reader, one file a data set, turns a folder as its owners publish it into a `Listing`. All that
is the same for every set (are the files whole, the outlines, the CSV) is done with that.
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
    """Where a data set is to be had.

    Args:
        name: as its owners call it.
        address: of the page or store it comes from.
        license: its terms in a few words.
        size: of a whole download, in words, for who knows how exact it is.
    """

    name: str
    address: str
    license: str
    size: str

    @property
    def offer(self) -> str:
        """Say where it is to be had."""
        return f"{self.name} is at {self.address}; {self.license}; {self.size}"

    def refuse(self, where: Path | str, found: str) -> CohortError:
        """Make the error that says what is wrong and where the set is to be had."""
        return CohortError(f"{where}: {found}. {self.offer}.")


@dataclass(frozen=True)
class Row:
    """A slide, or a region of one, as the set's label files tell of it.

    Args:
        slide_id: of the row in the cohort.
        path: where its file lies, or would lie.
        label: the class.
        patient_id: empty where the set does not say.
        mpp: for files that do not say; None for those that do.
        split: the part it stands in; None to leave that to training.
        stratum: a group to report apart; empty for none.
        drawing: the ASAP XML of its lesions.
        region: the top-left corner, in level-0 pixels, of a region to cut out; None for all.
    """

    slide_id: str
    path: Path
    label: str
    patient_id: str = ""
    mpp: float | None = None
    split: Part | None = None
    stratum: str = ""
    drawing: bytes | None = None
    region: tuple[float, float] | None = None


@dataclass(frozen=True)
class Listing:
    """The rows of a data set, and all that is known of its files.

    Args:
        rows: in the order of the label file.
        absent: how many were published that the label files here do not name.
        notes: what a user must know: what was left out, what was chosen.
        sizes: of files, in bytes, as published.
        sums: of files, MD5, as published.
    """

    rows: tuple[Row, ...]
    absent: int = 0
    notes: tuple[str, ...] = ()
    sizes: Mapping[Path, int] = field(default_factory=dict)
    sums: Mapping[Path, str] = field(default_factory=dict)


class Reader(Protocol):
    """Whatever lists a data set; chance is the seed's alone."""

    def __call__(self, folder: Path, seed: int) -> Listing:
        """List the slides that the label files in a folder name."""


def read_table(
    source: Source, path: Path, columns: Sequence[str], *, delimiter: str = ","
) -> list[dict[str, str]]:
    """Read a label file with a header; names of columns are lower-case, whatever they were.

    Raises:
        CohortError: it is not there, or has not these columns, as one of another release.
    """
    try:
        # utf-8-sig: some were saved by spreadsheets, which write a byte-order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, delimiter=delimiter) if any(line)]
    except FileNotFoundError:
        raise source.refuse(path, "no such label file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise source.refuse(path, f"not a table of text ({error})") from None
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    missing = [column for column in columns if column not in header]
    if missing:
        raise source.refuse(
            path,
            f"no column {', '.join(missing)} (found: {', '.join(header) or 'nothing'}), so it is a "
            "label file of another release or another set",
        )
    return [dict(zip(header, map(str.strip, line), strict=False)) for line in lines[1:]]


def files_below(folder: Path, ending: str) -> dict[str, Path]:
    """Give the files below a folder by their names without the ending, in lower case."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ending)
    return {path.stem.lower(): path for path in found if not path.name.startswith(".")}


def refuse_strangers(source: Source, labels: Path, strangers: Iterable[str]) -> None:
    """Refuse a label file that does not know slides which are there.

    Raises:
        CohortError: there are any, so the two are of different releases.
    """
    names = sorted(strangers)
    if names:
        raise source.refuse(
            labels,
            f"it does not name {len(names)} of the slides here ({', '.join(names[:5])}"
            f"{', ...' * (len(names) > 5)}), so it is a label file of another release",
        )


def hold_out(source: Source, rows: Sequence[Row], share: float, seed: int) -> set[str]:
    """Draw the slides of a share of the patients, each class and stratum giving its own.

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
