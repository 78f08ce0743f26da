"""CAMELYON16 and CAMELYON17 together, as MagNet was trained: the owners' bucket as it stands.

A quarter of CAMELYON17's patients is held out to test on. The rest of them, less the slides with
isolated tumor cells alone, is shuffled with the whole of CAMELYON16 and split 80/20.
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
    """List both sets, from `CAMELYON16/` and `CAMELYON17/`.

    Raises:
        CohortError: one of them is not there, or as its own reader.
    """
    parts = {path.name.upper(): path for path in folder.glob("*") if path.is_dir()}
    for name in ("CAMELYON16", "CAMELYON17"):
        if name not in parts:
            raise SOURCE.refuse(folder, f"no folder {name} here")
    first = camelyon16.read(parts["CAMELYON16"], seed)
    rows, unlabeled = camelyon17.list_stages(parts["CAMELYON17"])
    tested = camelyon17.held_out(rows, seed)
    pool = camelyon17.learnable(rows, tested) + first.rows
    chosen = hold_out(SOURCE, pool, camelyon17.VAL_SHARE, seed)
    learned = tuple(
        replace(row, split="val" if row.slide_id in chosen else "train") for row in pool
    )
    sums = sums_by_path(camelyon17.SOURCE, parts["CAMELYON17"])
    return Listing(
        tested + learned,
        absent=first.absent + max(0, camelyon17.PUBLISHED - len(rows)),
        notes=camelyon17.notes_of(rows, tested, unlabeled),
        sums={**first.sums, **sums},
    )
