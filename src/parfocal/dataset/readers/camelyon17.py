"""CAMELYON17: 500 labeled slides of lymph nodes, five of each of 100 patients, of five centers.

As in the owners' bucket: `images/`, `annotations/`, `stages.csv`, `checksums.md5`. As first
published: `training/center_C/patient_NNN.zip`, to be unpacked, and `training/stage_labels.csv`.
The other 500 slides, of patients 100 to 199, have no published labels.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parfocal.dataset.readers.bucket import ADDRESS, LICENSE, sums_by_path, with_drawings
from parfocal.dataset.readers.listing import (
    Listing,
    Row,
    Source,
    files_below,
    hold_out,
    read_table,
    refuse_strangers,
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
UNLABELLED = 100  # the first patient of the challenge's own test part
NAME = re.compile(r"(patient_(\d{3}))_node_\d")


def read(folder: Path, seed: int) -> Listing:
    """List CAMELYON17: a quarter of the patients to test on, the rest 80/20.

    Slides with isolated tumor cells (ITC) alone are tested on, never learned from.

    Raises:
        CohortError: it is not this set, or its label file or annotations are another's.
    """
    rows, unlabeled = list_stages(folder)
    tested = held_out(rows, seed)
    pool = learnable(rows, tested)
    chosen = hold_out(SOURCE, pool, VAL_SHARE, seed)
    learned = tuple(
        replace(row, split="val" if row.slide_id in chosen else "train") for row in pool
    )
    return Listing(
        tested + learned,
        absent=max(0, PUBLISHED - len(rows)),
        notes=notes_of(rows, tested, unlabeled),
        sums=sums_by_path(SOURCE, folder),
    )


def list_stages(folder: Path) -> tuple[tuple[Row, ...], int]:
    """List the labeled slides, not yet split, and count the others.

    Raises:
        CohortError: as `read`.
    """
    images, labels = folder / "images", folder / STAGES_FILE
    if not images.is_dir():
        images, labels = folder / "training", folder / "training" / "stage_labels.csv"
    if not images.is_dir():
        raise SOURCE.refuse(folder, "neither images/ nor training/ here")
    here = files_below(images, ".tif")
    masks = {name for name in here if name.endswith("_mask")}
    if not set(here) - masks and (packed := list(images.rglob("patient_*.zip"))):
        raise SOURCE.refuse(
            folder, f"no slide, but patients still packed ({len(packed)} zip); unpack them"
        )
    rows = [
        _row(labels, cells, images, here)
        for cells in read_table(SOURCE, labels, ("patient", "stage"))
        if not cells["patient"].endswith(".zip")  # a patient's own stage
    ]
    others = set(here) - masks - {row.slide_id for row in rows}
    unlabeled = {name for name in others if _number(name) >= UNLABELLED}
    refuse_strangers(SOURCE, labels, others - unlabeled)
    return with_drawings(SOURCE, folder, rows), len(unlabeled)


def held_out(rows: Sequence[Row], seed: int) -> tuple[Row, ...]:
    """Hold out all slides of a quarter of the patients."""
    drawn = hold_out(SOURCE, rows, TEST_SHARE, seed)
    return tuple(replace(row, split="test") for row in rows if row.slide_id in drawn)


def learnable(rows: Sequence[Row], tested: Sequence[Row]) -> tuple[Row, ...]:
    """Give the slides left to learn from and choose by: not those with ITC alone."""
    taken = {row.slide_id for row in tested}
    return tuple(row for row in rows if row.slide_id not in taken and row.stratum != "itc")


def notes_of(rows: Sequence[Row], tested: Sequence[Row], unlabeled: int) -> tuple[str, ...]:
    """Tell what was left out."""
    left = len(rows) - len(tested) - len(learnable(rows, tested))
    notes = [f"{left} left out: isolated tumor cells (ITC) alone are tested on, not learned from"]
    if unlabeled:
        notes.append(f"{unlabeled} left out: patients 100 to 199 have no published labels")
    return tuple(notes)


def _row(labels: Path, cells: dict[str, str], images: Path, here: dict[str, Path]) -> Row:
    name = Path(cells["patient"]).stem.lower()
    match, stage = NAME.fullmatch(name), cells["stage"].lower()
    if match is None or stage not in STAGES:
        raise SOURCE.refuse(
            labels,
            f"{cells['patient']!r} of stage {cells['stage']!r}, where patient_NNN_node_N.tif and "
            f"{', '.join(STAGES)} are known, so it is the label file of another release or set",
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
