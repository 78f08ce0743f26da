"""BRACS: 547 breast slides of seven lesion subtypes in three groups, with an official split.

Expected files: `BRACS_WSI/{train,val,test}/Group_{BT,AT,MT}/Type_{N,PB,...}/BRACS_N.svs`, and
`BRACS.xlsx` with patient, label and part of each slide in the sheet WSI_Information.
"""

from pathlib import Path

from parfocal.dataset.cohort import PARTS, Part
from parfocal.dataset.readers.listing import Listing, Row, Source, files_by_stem, refuse_unlisted
from parfocal.dataset.table import TableError, read_cells

SOURCE = Source(
    name="BRACS",
    address="https://www.bracs.icar.cnr.it/ (register there; the files are on its FTP server)",
    license="CC BY-NC 4.0 (to be checked there)",
    size="slides about 1 TB",
)
PUBLISHED = 547
SHEET = "WSI_Information"
# Lesion types, as named in the paper of the data set.
BENIGN, ATYPICAL, MALIGNANT = "benign", "atypical", "malignant"
SUBTYPES = {
    **dict.fromkeys(("N", "PB", "UDH"), BENIGN),
    **dict.fromkeys(("FEA", "ADH"), ATYPICAL),
    **dict.fromkeys(("DCIS", "IC"), MALIGNANT),
}
SETS: dict[str, Part] = {"training": "train", "validation": "val", "testing": "test"}
COLUMNS = ("wsi filename", "patient id", "wsi label", "set")


def read(folder: Path, seed: int) -> Listing:
    """List BRACS; the classes are the three lesion types, the strata the seven subtypes.

    Where the official split has a patient in two parts, only the slides in the later part are
    kept, so that no patient leaks from training into validation or testing.

    Raises:
        CohortError: the folder does not hold BRACS, or workbook and folders disagree.
    """
    images = folder / "BRACS_WSI"
    if not images.is_dir():
        raise SOURCE.error(folder, "no folder BRACS_WSI here")
    labels = folder / "BRACS.xlsx"
    rows = [_row(labels, cells, images) for cells in _read_labels(labels)]
    here = files_by_stem(images, ".svs")
    refuse_unlisted(SOURCE, labels, set(here) - {row.slide_id.lower() for row in rows})
    for row in rows:
        _refuse_other_folder(row, here.get(row.slide_id.lower(), row.path))
    return _without_leaks(rows)


def _read_labels(path: Path) -> list[dict[str, str]]:
    """Read the rows of the sheet by column; case and spaces in column names do not matter."""
    try:
        rows = [cells for _, cells in read_cells(path, sheet=SHEET)]
    except TableError as error:
        raise SOURCE.error(path, str(error)) from None
    header, *lines = rows or [[]]
    names = [" ".join(cell.lower().split()) for cell in header]
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise SOURCE.error(
            path, f"no column {', '.join(missing)} in {SHEET}, so this is another release"
        )
    blank = [""] * len(names)
    return [dict(zip(names, line + blank, strict=False)) for line in lines]


def _row(labels: Path, cells: dict[str, str], images: Path) -> Row:
    name, subtype = cells["wsi filename"].removesuffix(".svs"), cells["wsi label"].upper()
    part = SETS.get(cells["set"].lower())
    if subtype not in SUBTYPES or part is None:
        raise SOURCE.error(
            labels,
            f"{name} has label {cells['wsi label']!r} and set {cells['set']!r}, expected one of "
            f"{', '.join(SUBTYPES)} and of {', '.join(SETS)}, so this is another release",
        )
    label = SUBTYPES[subtype]
    group = {BENIGN: "BT", ATYPICAL: "AT", MALIGNANT: "MT"}[label]
    path = images / part / f"Group_{group}" / f"Type_{subtype}" / f"{name}.svs"
    return Row(name, path, label, patient_id=cells["patient id"], split=part, stratum=subtype)


def _refuse_other_folder(row: Row, found: Path) -> None:
    """Raise if a slide is not in the folder that the workbook implies."""
    if found != row.path:
        raise SOURCE.error(
            found,
            f"BRACS.xlsx expects it in {row.path.parent}, so the two are from different releases",
        )


def _without_leaks(rows: list[Row]) -> Listing:
    """Exclude slides of a patient who also has slides in a later part."""
    last: dict[str, int] = {}
    for row in rows:
        last[row.patient_id] = max(last.get(row.patient_id, 0), _rank(row))
    kept = tuple(row for row in rows if _rank(row) == last[row.patient_id])
    patients = sorted({row.patient_id for row in rows if _rank(row) < last[row.patient_id]})
    note = (
        f"excluded {len(rows) - len(kept)} slides of patient {', '.join(patients)}: the official "
        "split has other slides of the patient in a later part"
    )
    absent = max(0, PUBLISHED - len(rows))
    return Listing(kept, absent=absent, notes=(note,) if patients else ())


def _rank(row: Row) -> int:
    assert row.split is not None
    return PARTS.index(row.split)
