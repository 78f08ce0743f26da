"""CAMELYON16: 399 slides of lymph nodes, normal or with a metastasis; two layouts.

Public bucket: `images/`, `annotations/`, `evaluation/reference.csv`, `checksums.md5`.
First release: `training/{normal,tumor}/`, `testing/images/`, `testing/reference.csv` (no header)
and a `lesion_annotations.zip` in both training and testing.
"""

import csv
from dataclasses import replace
from pathlib import Path

from parfocal.dataset.cohort import Part
from parfocal.dataset.readers.bucket import ADDRESS, LICENSE, add_annotations, sums_by_path
from parfocal.dataset.readers.listing import (
    Listing,
    Row,
    Source,
    files_by_stem,
    read_table,
    refuse_unlisted,
)

SOURCE = Source(
    name="CAMELYON16",
    address=ADDRESS,
    license=LICENSE,
    size="about 700 GB",
)
PUBLISHED = 399
NORMAL, TUMOR = 160, 111  # training slides, numbered from 1
WITHDRAWN = {"normal_086", "test_049"}  # after the first release: a wrong label, and a duplicate
SIZES = ("macro", "micro", "itc")
REFERENCE = "evaluation/reference.csv"


def read(folder: Path, seed: int) -> Listing:
    """List CAMELYON16 with its official split, which has no validation part.

    Raises:
        CohortError: the folder does not hold CAMELYON16, or label file or annotations belong to
            another data set.
    """
    if (folder / "images").is_dir():
        rows, sums = _list_bucket(folder), sums_by_path(SOURCE, folder)
    elif (folder / "training").is_dir():
        rows, sums = _list_first_release(folder), {}
    else:
        raise SOURCE.error(folder, "neither images/ nor training/ and testing/ here")
    absent = max(0, PUBLISHED - len(rows))
    return Listing(add_annotations(SOURCE, folder, rows), absent=absent, sums=sums)


def _list_bucket(folder: Path) -> list[Row]:
    """List the slides of `reference.csv`; its columns are image, type and class."""
    path = folder / REFERENCE
    rows = []
    for cells in read_table(SOURCE, path, ("image", "type")):
        name = Path(cells["image"]).stem.lower()
        rows.append(_row(path, name, folder / "images", cells["type"], cells.get("class", "")))
    here = files_by_stem(folder / "images", ".tif")
    refuse_unlisted(SOURCE, path, set(here) - {row.slide_id for row in rows} - WITHDRAWN)
    return [replace(row, path=here.get(row.slide_id, row.path)) for row in rows]


def _list_first_release(folder: Path) -> list[Row]:
    """List the training slides by number, and the test slides of `reference.csv`."""
    path = folder / "testing" / "reference.csv"
    rows = [
        _row(path, name, folder / "training" / kind, kind, "")
        for kind, count in (("normal", NORMAL), ("tumor", TUMOR))
        for name in (f"{kind}_{number:03}" for number in range(1, count + 1))
        if name not in WITHDRAWN
    ]
    if not path.exists():
        raise SOURCE.error(path, "no such label file")
    with path.open(newline="", encoding="utf-8-sig") as file:
        for name, kind, *more in (line for line in csv.reader(file) if len(line) > 1):
            size = next((cell.lower() for cell in more if cell.lower() in SIZES), "")
            rows.append(_row(path, name.lower(), folder / "testing" / "images", kind, size))
    here = files_by_stem(folder / "training", ".tif") | files_by_stem(
        folder / "testing/images", ".tif"
    )
    refuse_unlisted(SOURCE, path, set(here) - {row.slide_id for row in rows} - WITHDRAWN)
    return [replace(row, path=here.get(row.slide_id, row.path)) for row in rows]


def _row(path: Path, name: str, images: Path, kind: str, size: str) -> Row:
    """Return a row; raise if the label is unknown or contradicts the name of the slide."""
    label = kind.strip().lower()
    group = name.rpartition("_")[0]
    if label not in ("normal", "tumor") or group not in ("test", label):
        raise SOURCE.error(
            path, f"slide {name!r} has type {kind!r}, so this is the label file of another data set"
        )
    split: Part = "test" if group == "test" else "train"
    stratum = "negative" if label == "normal" else size.strip().lower()
    return Row(name, images / f"{name}.tif", label, split=split, stratum=stratum)
