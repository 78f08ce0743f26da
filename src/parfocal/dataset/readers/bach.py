"""BACH: 400 breast microscopy images in four classes, at a single magnification (0.42 µm/px).

Expected files: `ICIAR2018_BACH_Challenge/Photos/{Benign,InSitu,Invasive,Normal}/*.tif` and
`Photos/microscopy_ground_truth.csv` without a header: file name, class.
"""

import csv
from dataclasses import replace
from pathlib import Path

from parfocal.dataset.readers.listing import (
    Listing,
    Row,
    Source,
    files_by_stem,
    hold_out,
    refuse_unlisted,
)

SOURCE = Source(
    name="BACH",
    address="https://zenodo.org/records/3632035 (ICIAR2018_BACH_Challenge.zip)",
    license="CC BY-NC-ND 4.0",
    size="about 10 GB",
)
PUBLISHED = 400
CLASSES = ("Benign", "InSitu", "Invasive", "Normal")
MPP = 0.42  # stated by the challenge
TEST_SHARE = 0.2  # 80 of 400, 20 of each class
NOTE = (
    "the labels of the 100 test images of the challenge are not public: a fifth of the 400 images "
    "is the test part instead, and validation images are drawn from the rest"
)


def read(folder: Path, seed: int) -> Listing:
    """List BACH: 320 images for training and 80 for testing.

    Raises:
        CohortError: the folder does not hold BACH, or label file and folders disagree.
    """
    photos = folder / "Photos"
    if not photos.is_dir():
        photos = folder / "ICIAR2018_BACH_Challenge" / "Photos"
    if not photos.is_dir():
        raise SOURCE.error(folder, "no folder Photos, nor ICIAR2018_BACH_Challenge/Photos, here")
    rows = _rows(photos / "microscopy_ground_truth.csv", photos)
    test_ids = hold_out(SOURCE, rows, TEST_SHARE, seed)
    split = tuple(
        replace(row, split="test" if row.slide_id in test_ids else "train") for row in rows
    )
    return Listing(split, absent=max(0, PUBLISHED - len(rows)), notes=(NOTE,))


def _rows(labels: Path, photos: Path) -> list[Row]:
    if not labels.exists():
        raise SOURCE.error(labels, "no such label file")
    with labels.open(newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file) if any(line)]
    here = files_by_stem(photos, ".tif")
    rows = []
    for line in lines:
        name, label = (line[0].strip(), line[1].strip()) if len(line) == 2 else ("", "")
        if label not in CLASSES:
            raise SOURCE.error(
                labels,
                f"found a row {','.join(line)!r}, expected a file name and one of "
                f"{', '.join(CLASSES)}, so this is the label file of another release or data set",
            )
        stem = Path(name).stem
        path = here.get(stem.lower(), photos / label / name)
        if path.parent.name != label:
            raise SOURCE.error(
                path, f"{labels.name} labels it {label}, so they are from different releases"
            )
        rows.append(Row(stem, path, label, mpp=MPP))
    refuse_unlisted(SOURCE, labels, set(here) - {row.slide_id.lower() for row in rows})
    return rows
