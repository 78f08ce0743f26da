"""A data set's folder -> a cohort CSV, with outlines beside it: `parfocal cohort`."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.dataset.cohort import OPTIONAL, PARTS, REQUIRED
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
from parfocal.dataset.readers.asap import read_drawing
from parfocal.dataset.readers.check import Checked, check_files
from parfocal.dataset.readers.listing import Listing, Reader, Row, Source
from parfocal.files import whole_file
from parfocal.slide.errors import SlideError
from parfocal.slide.tiff import read_extent

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
MOST_GONE = 0.05  # share of a set that may be missing or damaged before it is another set
COLUMNS = tuple(name for name in (*REQUIRED, *OPTIONAL) if name != "fold")


@dataclass(frozen=True)
class Made:
    """What a cohort CSV was made of.

    Args:
        rows: of the CSV.
        missing: slide files that are not here, and last how many no label file names.
        gone: how many that is.
        damaged: slides left out, each with what was found.
        notes: what else was left out or chosen.
    """

    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    gone: int
    damaged: dict[str, str]
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """Count slides by class and by part."""
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
) -> Made:
    """Turn a data set's folder, as its owners publish it, into a cohort CSV.

    Lesions go as GeoJSON into a folder beside it, as do regions that are cut out of slides.

    Args:
        name: of the data set, one of `READERS`.
        folder: where it lies.
        out: the CSV; one that is there is replaced.
        seed: of the split, where it is ours to draw.
        verify: check the sums of files too, which reads every byte.
        partial: go on when more than a twentieth of the slides is missing or damaged.

    Raises:
        CohortError: it is not that set, its files contradict each other, or it is far from whole.
        ValueError: no data set has that name.
    """
    listing, checked = look_through(name, folder, seed=seed, verify=verify, partial=partial)
    source = READERS[name][0]
    out.parent.mkdir(parents=True, exist_ok=True)
    damaged, lines = dict(checked.damaged), []
    for row in checked.whole:
        try:
            lines.append((row, _line(source, row, out)))
        except SlideError as error:
            damaged[row.slide_id] = str(error)
    _write(out, [line for _, line in lines])
    rows = tuple(row for row, _ in lines)
    gone = len(checked.missing) + listing.absent
    offer = (f"for what is missing or damaged: {source.offer}",) * bool(gone or damaged)
    return Made(rows, _missing(listing, checked), gone, damaged, listing.notes + offer)


def look_through(
    name: str, folder: Path, *, seed: int = 0, verify: bool = False, partial: bool = False
) -> tuple[Listing, Checked]:
    """List a data set and look at its files, and write nothing; see `make_cohort`.

    Raises:
        CohortError: likewise.
        ValueError: likewise.
    """
    if name not in READERS:
        raise ValueError(f"unknown data set {name!r}; use one of {', '.join(READERS)}.")
    source, read = READERS[name]
    if not folder.is_dir():
        raise source.refuse(folder, "no such folder")
    listing = read(folder, seed)
    checked = check_files(listing, verify=verify)
    _refuse_ruins(source, folder, listing, checked, partial=partial)
    return listing, checked


def _refuse_ruins(
    source: Source, folder: Path, listing: Listing, checked: Checked, *, partial: bool
) -> None:
    """Refuse a set of which so much is gone that a number from it would not be the set's."""
    slides = len({row.path for row in listing.rows}) + listing.absent
    gone = len(checked.missing) + len(checked.damaged) + listing.absent
    if not checked.whole or (gone > MOST_GONE * slides and not partial):
        kinds = {"missing": _missing(listing, checked), "damaged": tuple(checked.damaged)}
        told = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names)
        go_on = "" if partial or not checked.whole else ". --partial makes a table of the rest"
        raise source.refuse(folder, f"{gone} of {slides} slides are not here whole ({told}){go_on}")


def _missing(listing: Listing, checked: Checked) -> tuple[str, ...]:
    unnamed = f"{listing.absent} that no label file names"
    return checked.missing + (unnamed,) * (listing.absent > 0)


def _line(source: Source, row: Row, out: Path) -> dict[str, str]:
    """Give a row's cells, its outlines written and its region cut."""
    path = row.path
    if row.region is not None:
        path = tcga_prad.cut_region(row, row.region, out.parent / f"{out.stem}-regions")
    outlines = None
    if row.drawing is not None:
        outlines = _outline(source, row, row.drawing, out.parent / f"{out.stem}-outlines")
    return {
        "slide_id": row.slide_id,
        "path": _shown(path, out),
        "label": row.label,
        "patient_id": row.patient_id,
        "mpp": "" if row.mpp is None else f"{row.mpp:g}",
        "split": row.split or "",
        "stratum": row.stratum,
        "outlines": "" if outlines is None else _shown(outlines, out),
    }


def _outline(source: Source, row: Row, drawing: bytes, folder: Path) -> Path:
    """Write a slide's lesions as GeoJSON."""
    extent = read_extent(row.path)
    outlines = read_drawing(row.slide_id, drawing, (extent.width, extent.height))
    if outlines.polygons and row.label == "normal":
        raise source.refuse(
            row.path, "lesions are drawn on it, and it is labeled normal: of different releases"
        )
    folder.mkdir(exist_ok=True)
    path = folder / f"{row.slide_id}.geojson"
    write_outlines(path, outlines)
    return path


def _shown(path: Path, out: Path) -> str:
    """Write a path as the CSV takes it: from its own folder if it lies there, else whole."""
    path, base = path.resolve(), out.parent.resolve()
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def _write(out: Path, lines: Sequence[dict[str, str]]) -> None:
    """Write the table, without columns that would be empty."""
    used = [name for name in COLUMNS if name in REQUIRED or any(line[name] for line in lines)]
    with whole_file(out) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, used, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
