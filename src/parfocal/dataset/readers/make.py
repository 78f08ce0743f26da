"""Turn the folder of a public data set into a cohort CSV and outlines: `parfocal cohort`."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.cohort import PARTS
from parfocal.dataset.outlines import write_outlines
from parfocal.dataset.readers import (
    bach,
    bracs,
    bright,
    camelyon,
    camelyon16,
    camelyon17,
    panda,
    tcga_prad,
)
from parfocal.dataset.readers.asap import read_annotations
from parfocal.dataset.readers.check import Checked, check_files
from parfocal.dataset.readers.listing import Listing, Reader, Row, Source
from parfocal.dataset.rows import REQUIRED
from parfocal.files import whole_file
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.tiff_directories import read_extent

READERS: dict[str, tuple[Source, Reader]] = {
    "camelyon16": (camelyon16.SOURCE, camelyon16.read),
    "camelyon17": (camelyon17.SOURCE, camelyon17.read),
    "camelyon": (camelyon.SOURCE, camelyon.read),
    "bright": (bright.SOURCE, bright.read),
    "bracs": (bracs.SOURCE, bracs.read),
    "bach": (bach.SOURCE, bach.read),
    "tcga-prad": (tcga_prad.SOURCE, tcga_prad.read),
    "panda": (panda.SOURCE, panda.read),
}
MAX_MISSING_SHARE = 0.05  # slides missing or damaged without --partial
COLUMNS = (*REQUIRED, "patient_id", "mpp", "split", "stratum", "outlines")


@dataclass(frozen=True)
class MadeCohort:
    """The content of a cohort CSV, and the slides that are not in it.

    Args:
        rows: the rows of the CSV.
        missing: names of missing slide files; last, if any, the number of slides that no label
            file lists.
        num_missing: number of missing slides.
        damaged: excluded slides, each with the problem.
        notes: other exclusions and choices.
    """

    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    num_missing: int
    damaged: dict[str, str]
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """Numbers of slides by class and by part, in one line."""
        labels = Counter(row.label for row in self.rows)
        parts = Counter(row.split for row in self.rows if row.split)
        text = f"{len(self.rows)} slides: " + ", ".join(f"{labels[k]} {k}" for k in sorted(labels))
        return text + "".join(f"; {part} {parts[part]}" for part in PARTS if part in parts)


def make_cohort(
    name: str,
    folder: Path,
    out: Path,
    *,
    seed: int = 0,
    verify: bool = False,
    partial: bool = False,
) -> MadeCohort:
    """Turn the folder of a data set, as published, into a cohort CSV.

    Outlines of lesions (GeoJSON) and regions cropped from slides go into folders beside the CSV.

    Args:
        name: name of the data set, a key of `READERS`.
        folder: folder of the data set.
        out: the CSV to write; an existing file is replaced.
        seed: seed of the split, for data sets without an official one.
        verify: whether to check published checksums, which reads every byte.
        partial: whether to continue if more than 5% of the slides are missing or damaged.

    Raises:
        CohortError: the folder does not hold the data set, its files contradict each other, or too
            many are missing.
        ValueError: the name is unknown.
    """
    listing, checked = check_data_set(name, folder, seed=seed, verify=verify, partial=partial)
    source = READERS[name][0]
    out.parent.mkdir(parents=True, exist_ok=True)
    damaged, lines = dict(checked.damaged), []
    for row in checked.complete:
        try:
            lines.append((row, _line(source, row, out)))
        except SlideError as error:
            damaged[row.slide_id] = str(error)
    _write(out, [line for _, line in lines])
    rows = tuple(row for row, _ in lines)
    num_missing = len(checked.missing) + listing.absent
    notes = listing.notes
    if num_missing or damaged:
        notes += (f"to download missing and damaged files: {source.download_hint}",)
    return MadeCohort(rows, _missing(listing, checked), num_missing, damaged, notes)


def check_data_set(
    name: str, folder: Path, *, seed: int = 0, verify: bool = False, partial: bool = False
) -> tuple[Listing, Checked]:
    """List a data set and check its files, without writing anything.

    The arguments are those of `make_cohort`.

    Raises:
        CohortError: the folder does not hold the data set, its files contradict each other, or too
            many are missing.
        ValueError: the name is unknown.
    """
    if name not in READERS:
        raise ValueError(f"unknown data set {name!r}; use one of {', '.join(READERS)}.")
    source, read = READERS[name]
    if not folder.is_dir():
        raise source.error(folder, "no such folder")
    listing = read(folder, seed)
    checked = check_files(listing, verify=verify)
    _refuse_incomplete(source, folder, listing, checked, partial=partial)
    return listing, checked


def _refuse_incomplete(
    source: Source, folder: Path, listing: Listing, checked: Checked, *, partial: bool
) -> None:
    """Raise if so many slides are missing that results would not be those of the data set."""
    slides = len({row.path for row in listing.rows}) + listing.absent
    unusable = len(checked.missing) + len(checked.damaged) + listing.absent
    if not checked.complete or (unusable > MAX_MISSING_SHARE * slides and not partial):
        kinds = {"missing": _missing(listing, checked), "damaged": tuple(checked.damaged)}
        names = "; ".join(f"{kind}: {', '.join(each)}" for kind, each in kinds.items() if each)
        hint = "" if partial or not checked.complete else ". Use --partial to continue without them"
        raise source.error(
            folder, f"{unusable} of {slides} slides are missing or damaged ({names}){hint}"
        )


def _missing(listing: Listing, checked: Checked) -> tuple[str, ...]:
    if not listing.absent:
        return checked.missing
    return (*checked.missing, f"{listing.absent} that no label file lists")


def _line(source: Source, row: Row, out: Path) -> dict[str, str]:
    """Write the outlines and the region of a row, and return its cells."""
    path = row.path
    if row.region is not None:
        path = tcga_prad.crop_region(row, row.region, out.parent / f"{out.stem}-regions")
    outlines = None
    if row.annotations is not None:
        outlines = _write_outlines(
            source, row, row.annotations, out.parent / f"{out.stem}-outlines"
        )
    return {
        "slide_id": row.slide_id,
        "path": _relative(path, out),
        "label": row.label,
        "patient_id": row.patient_id,
        "mpp": "" if row.mpp is None else f"{row.mpp:g}",
        "split": row.split or "",
        "stratum": row.stratum,
        "outlines": "" if outlines is None else _relative(outlines, out),
    }


def _write_outlines(source: Source, row: Row, annotations: bytes, folder: Path) -> Path:
    """Write the lesions of a slide as GeoJSON, and return the file."""
    extent = read_extent(row.path)
    outlines = read_annotations(row.slide_id, annotations, (extent.width, extent.height))
    if outlines.polygons and row.label == "normal":
        raise source.error(
            row.path,
            "it has lesion annotations but the label normal, so labels and annotations are from "
            "different releases",
        )
    folder.mkdir(exist_ok=True)
    path = folder / f"{row.slide_id}.geojson"
    write_outlines(path, outlines)
    return path


def _relative(path: Path, out: Path) -> str:
    """Return a path relative to the folder of the CSV if it is inside; else the absolute path."""
    path, base = path.resolve(), out.parent.resolve()
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def _write(out: Path, lines: Sequence[dict[str, str]]) -> None:
    """Write the table without empty optional columns."""
    used = [name for name in COLUMNS if name in REQUIRED or any(line[name] for line in lines)]
    with whole_file(out) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, used, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
