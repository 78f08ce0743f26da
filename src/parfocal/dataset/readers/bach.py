"""BACH: 400 microscopy images of the breast in four classes, of one magnification (0.42 um/px).

`ICIAR2018_BACH_Challenge/Photos/{Benign,InSitu,Invasive,Normal}/*.tif` beside
`microscopy_ground_truth.csv`, which has no header: file name, class.
"""

import csv
from dataclasses import replace
from pathlib import Path

from parfocal.dataset.readers.listing import (
    Listing,
    Row,
    Source,
    files_below,
    hold_out,
    refuse_strangers,
)

SOURCE = Source(
    name="BACH",
    address="https://zenodo.org/records/3632035 (ICIAR2018_BACH_Challenge.zip)",
    license="CC BY-NC-ND 4.0",
    size="about 10 GB",
)
PUBLISHED = 400
CLASSES = ("Benign", "InSitu", "Invasive", "Normal")
MPP = 0.42  # as the challenge states
TEST_SHARE = 0.2  # 80 of 400, 20 of each class
NOTE = (
    "the 100 images of the challenge's test have no public labels: a fifth of the 400 is the test "
    "part instead, and validation images are cut from the rest"
)


def read(folder: Path, seed: int) -> Listing:
    """List BACH: 320 images to learn from and 80 to test on.

    Raises:
        CohortError: it is not this set, or the label file and the folders disagree.
    """
    photos = folder / "Photos"
    if not photos.is_dir():
        photos = folder / "ICIAR2018_BACH_Challenge" / "Photos"
    if not photos.is_dir():
        raise SOURCE.refuse(folder, "no folder Photos, nor ICIAR2018_BACH_Challenge/Photos, here")
    rows = _rows(photos / "microscopy_ground_truth.csv", photos)
    tested = hold_out(SOURCE, rows, TEST_SHARE, seed)
    split = tuple(replace(row, split="test" if row.slide_id in tested else "train") for row in rows)
    return Listing(split, absent=max(0, PUBLISHED - len(rows)), notes=(NOTE,))


def _rows(labels: Path, photos: Path) -> list[Row]:
    if not labels.exists():
        raise SOURCE.refuse(labels, "no such label file")
    with labels.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if any(line)]
    here = files_below(photos, ".tif")
    rows = []
    for line in lines:
        name, label = (line[0].strip(), line[1].strip()) if len(line) == 2 else ("", "")
        if label not in CLASSES:
            raise SOURCE.refuse(
                labels,
                f"a row {','.join(line)!r}, where a file name and one of {', '.join(CLASSES)} "
                "should be, so it is a label file of another release or set",
            )
        stem = Path(name).stem
        path = here.get(stem.lower(), photos / label / name)
        if path.parent.name != label:
            raise SOURCE.refuse(path, f"{labels.name} calls it {label}: of different releases")
        rows.append(Row(stem, path, label, mpp=MPP))
    refuse_strangers(SOURCE, labels, set(here) - {row.slide_id.lower() for row in rows})
    return rows
