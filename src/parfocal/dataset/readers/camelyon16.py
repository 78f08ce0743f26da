"""CAMELYON16: 399 slides of lymph nodes, normal or with a metastasis, in two layouts.

As in the owners' bucket: `images/`, `annotations/`, `evaluation/reference.csv`, `checksums.md5`.
As first published: `training/{normal,tumor}/`, `testing/images/`, `testing/reference.csv`
(no header) and a `lesion_annotations.zip` in both halves.
"""

import csv
from dataclasses import replace
from pathlib import Path

from parfocal.dataset.cohort import Part
from parfocal.dataset.readers.bucket import ADDRESS, LICENSE, sums_by_path, with_drawings
from parfocal.dataset.readers.listing import (
    Listing,
    Row,
    Source,
    files_below,
    read_table,
    refuse_strangers,
)

SOURCE = Source(
    name="CAMELYON16",
    address=ADDRESS,
    license=LICENSE,
    size="about 700 GB",
)
PUBLISHED = 399
NORMAL, TUMOR = 160, 111  # training slides, as numbered
WITHDRAWN = {"normal_086", "test_049"}  # after the first release: mislabeled, and a duplicate
SIZES = ("macro", "micro", "itc")
REFERENCE = "evaluation/reference.csv"


def read(folder: Path, seed: int) -> Listing:
    """List CAMELYON16; its split is its owners', with no validation part.

    Raises:
        CohortError: it is not this set, or its label file or annotations are another's.
    """
    if (folder / "images").is_dir():
        rows, sums = _of_bucket(folder), sums_by_path(SOURCE, folder)
    elif (folder / "training").is_dir():
        rows, sums = _as_first_published(folder), {}
    else:
        raise SOURCE.refuse(folder, "neither images/ nor training/ and testing/ here")
    absent = max(0, PUBLISHED - len(rows))
    return Listing(with_drawings(SOURCE, folder, rows), absent=absent, sums=sums)


def _of_bucket(folder: Path) -> list[Row]:
    """List the slides of `reference.csv`, whose columns are image, type and class."""
    path = folder / REFERENCE
    rows = []
    for cells in read_table(SOURCE, path, ("image", "type")):
        name = Path(cells["image"]).stem.lower()
        rows.append(_row(path, name, folder / "images", cells["type"], cells.get("class", "")))
    here = files_below(folder / "images", ".tif")
    refuse_strangers(SOURCE, path, set(here) - {row.slide_id for row in rows} - WITHDRAWN)
    return [replace(row, path=here.get(row.slide_id, row.path)) for row in rows]


def _as_first_published(folder: Path) -> list[Row]:
    """List the training slides by their numbers, and the test slides of `reference.csv`."""
    path = folder / "testing" / "reference.csv"
    rows = [
        _row(path, name, folder / "training" / kind, kind, "")
        for kind, count in (("normal", NORMAL), ("tumor", TUMOR))
        for name in (f"{kind}_{number:03}" for number in range(1, count + 1))
        if name not in WITHDRAWN
    ]
    if not path.exists():
        raise SOURCE.refuse(path, "no such label file")
    with path.open(newline="", encoding="utf-8-sig") as file:
        for name, kind, *more in (line for line in csv.reader(file) if len(line) > 1):
            size = next((cell.lower() for cell in more if cell.lower() in SIZES), "")
            rows.append(_row(path, name.lower(), folder / "testing" / "images", kind, size))
    here = files_below(folder / "training", ".tif") | files_below(folder / "testing/images", ".tif")
    refuse_strangers(SOURCE, path, set(here) - {row.slide_id for row in rows} - WITHDRAWN)
    return [replace(row, path=here.get(row.slide_id, row.path)) for row in rows]


def _row(path: Path, name: str, images: Path, kind: str, size: str) -> Row:
    """Make a row, refusing a label that is none or says other than the slide's name."""
    label = kind.strip().lower()
    group = name.rpartition("_")[0]
    if label not in ("normal", "tumor") or group not in ("test", label):
        raise SOURCE.refuse(
            path, f"slide {name!r} of type {kind!r}, so it is the label file of another set"
        )
    split: Part = "test" if group == "test" else "train"
    stratum = "negative" if label == "normal" else size.strip().lower()
    return Row(name, images / f"{name}.tif", label, split=split, stratum=stratum)
