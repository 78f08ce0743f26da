"""CAMELYON17: 500 labeled slides of lymph nodes: 100 patients in five centers, 5 slides each.

Public bucket: `images/`, `annotations/`, `stages.csv`, `checksums.md5`. First release:
`training/center_C/patient_NNN.zip`, to be unpacked, and `training/stage_labels.csv`. The labels
of the other 500 slides, of patients 100 to 199, are not public.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parfocal.dataset.readers.bucket import ADDRESS, LICENSE, add_annotations, sums_by_path
from parfocal.dataset.readers.listing import (
    Listing,
    Row,
    Source,
    files_by_stem,
    hold_out,
    read_table,
    refuse_unlisted,
)

SOURCE = Source(
    name="CAMELYON17",
    address=ADDRESS,
    license=LICENSE,
    size="the 1,399 slides of CAMELYON16 and 17 are about 3 TB",
)
PUBLISHED = 500  # with labels
STAGES_FILE = "stages.csv"
STAGES = ("negative", "itc", "micro", "macro")
TEST_SHARE, VAL_SHARE = 0.25, 0.2
FIRST_UNLABELED = 100  # first patient of the test part of the challenge
NAME = re.compile(r"(patient_(\d{3}))_node_\d")


def read(folder: Path, seed: int) -> Listing:
    """List CAMELYON17: a quarter of the patients for testing, the others split 80/20.

    Slides with only isolated tumor cells (ITC) are used for testing, never for training.

    Raises:
        CohortError: the folder does not hold CAMELYON17, or label file or annotations belong to
            another data set.
    """
    rows, unlabeled = list_stages(folder)
    test = test_rows(rows, seed)
    pool = training_pool(rows, test)
    val_ids = hold_out(SOURCE, pool, VAL_SHARE, seed)
    rest = tuple(replace(row, split="val" if row.slide_id in val_ids else "train") for row in pool)
    return Listing(
        test + rest,
        absent=max(0, PUBLISHED - len(rows)),
        notes=notes_of(rows, test, unlabeled),
        sums=sums_by_path(SOURCE, folder),
    )


def list_stages(folder: Path) -> tuple[tuple[Row, ...], int]:
    """List the labeled slides before splitting, and count the unlabeled ones.

    Raises:
        CohortError: the folder does not hold CAMELYON17; see `read`.
    """
    images, labels = folder / "images", folder / STAGES_FILE
    if not images.is_dir():
        images, labels = folder / "training", folder / "training" / "stage_labels.csv"
    if not images.is_dir():
        raise SOURCE.error(folder, "neither images/ nor training/ here")
    here = files_by_stem(images, ".tif")
    masks = {name for name in here if name.endswith("_mask")}
    if not set(here) - masks and (packed := list(images.rglob("patient_*.zip"))):
        raise SOURCE.error(
            folder, f"no slide, but {len(packed)} zip files of patients; unpack them"
        )
    rows = [
        _row(labels, cells, images, here)
        for cells in read_table(SOURCE, labels, ("patient", "stage"))
        if not cells["patient"].endswith(".zip")  # the stage of the patient, not of a slide
    ]
    others = set(here) - masks - {row.slide_id for row in rows}
    unlabeled = {name for name in others if _number(name) >= FIRST_UNLABELED}
    refuse_unlisted(SOURCE, labels, others - unlabeled)
    return add_annotations(SOURCE, folder, rows), len(unlabeled)


def test_rows(rows: Sequence[Row], seed: int) -> tuple[Row, ...]:
    """Return all slides of a quarter of the patients, as the test part."""
    test_ids = hold_out(SOURCE, rows, TEST_SHARE, seed)
    return tuple(replace(row, split="test") for row in rows if row.slide_id in test_ids)


def training_pool(rows: Sequence[Row], test: Sequence[Row]) -> tuple[Row, ...]:
    """Return the slides for training and validation: not in the test part, and not only ITC."""
    test_ids = {row.slide_id for row in test}
    return tuple(row for row in rows if row.slide_id not in test_ids and row.stratum != "itc")


def notes_of(rows: Sequence[Row], test: Sequence[Row], unlabeled: int) -> tuple[str, ...]:
    """Return messages about the excluded slides."""
    excluded = len(rows) - len(test) - len(training_pool(rows, test))
    notes = [
        f"excluded {excluded} slides: those with only isolated tumor cells (ITC) are used for "
        "testing, not for training"
    ]
    if unlabeled:
        notes.append(f"excluded {unlabeled} slides: labels of patients 100 to 199 are not public")
    return tuple(notes)


def _row(labels: Path, cells: dict[str, str], images: Path, here: dict[str, Path]) -> Row:
    name = Path(cells["patient"]).stem.lower()
    match, stage = NAME.fullmatch(name), cells["stage"].lower()
    if match is None or stage not in STAGES:
        raise SOURCE.error(
            labels,
            f"{cells['patient']!r} has stage {cells['stage']!r}, expected patient_NNN_node_N.tif "
            f"and one of {', '.join(STAGES)}, so this is the label file of another release or data "
            "set",
        )
    return Row(
        slide_id=name,
        path=here.get(name, images / f"{name}.tif"),
        label="normal" if stage == "negative" else "tumor",
        patient_id=match[1],
        stratum=stage,
    )


def _number(name: str) -> int:
    match = NAME.fullmatch(name)
    return int(match[2]) if match else -1
