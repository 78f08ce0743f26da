"""CAMELYON16 and CAMELYON17 together, split as in the MagNet paper; layout of the public bucket.

A quarter of the CAMELYON17 patients is the test part. The other CAMELYON17 slides, except those
with only isolated tumor cells, and all of CAMELYON16 are split 80/20 into train and val.
"""

from dataclasses import replace
from pathlib import Path

from parfocal.dataset.readers import camelyon16, camelyon17
from parfocal.dataset.readers.bucket import ADDRESS, LICENSE, sums_by_path
from parfocal.dataset.readers.listing import Listing, Source, hold_out

SOURCE = Source(
    name="CAMELYON",
    address=ADDRESS,
    license=LICENSE,
    size=camelyon17.SOURCE.size,
)


def read(folder: Path, seed: int) -> Listing:
    """List both data sets, from the folders `CAMELYON16/` and `CAMELYON17/`.

    Raises:
        CohortError: one of them is missing, or its own reader raises.
    """
    parts = {path.name.upper(): path for path in folder.glob("*") if path.is_dir()}
    for name in ("CAMELYON16", "CAMELYON17"):
        if name not in parts:
            raise SOURCE.error(folder, f"no folder {name} here")
    first = camelyon16.read(parts["CAMELYON16"], seed)
    rows, unlabeled = camelyon17.list_stages(parts["CAMELYON17"])
    test = camelyon17.test_rows(rows, seed)
    pool = camelyon17.training_pool(rows, test) + first.rows
    val_ids = hold_out(SOURCE, pool, camelyon17.VAL_SHARE, seed)
    rest = tuple(replace(row, split="val" if row.slide_id in val_ids else "train") for row in pool)
    sums = sums_by_path(camelyon17.SOURCE, parts["CAMELYON17"])
    return Listing(
        test + rest,
        absent=first.absent + max(0, camelyon17.PUBLISHED - len(rows)),
        notes=camelyon17.notes_of(rows, test, unlabeled),
        sums={**first.sums, **sums},
    )
