"""BRACS: 547 breast slides of seven lesion subtypes in three groups, with a split by their owners.

`BRACS_WSI/{train,val,test}/Group_{BT,AT,MT}/Type_{N,PB,...}/BRACS_N.svs`, and `BRACS.xlsx`, whose
sheet WSI_Information has a slide's patient, label and part.
"""

from pathlib import Path

from parfocal.dataset.cohort import PARTS, Part
from parfocal.dataset.readers.listing import Listing, Row, Source, files_below, refuse_strangers
from parfocal.dataset.readers.workbook import read_sheet

SOURCE = Source(
    name="BRACS",
    address="https://www.bracs.icar.cnr.it/ (register there; the files are on its FTP server)",
    license="CC BY-NC 4.0 (to be checked there)",
    size="slides about 1 TB",
)
PUBLISHED = 547
SHEET = "WSI_Information"
# A lesion's type, in the words of the data set's paper.
BENIGN, ATYPICAL, MALIGNANT = "benign", "atypical", "malignant"
SUBTYPES = {
    **dict.fromkeys(("N", "PB", "UDH"), BENIGN),
    **dict.fromkeys(("FEA", "ADH"), ATYPICAL),
    **dict.fromkeys(("DCIS", "IC"), MALIGNANT),
}
SETS: dict[str, Part] = {"training": "train", "validation": "val", "testing": "test"}
COLUMNS = ("wsi filename", "patient id", "wsi label", "set")


def read(folder: Path, seed: int) -> Listing:
    """List BRACS; classes are the three lesion types, strata the seven subtypes.

    Of a patient whom the owners put into two parts, only the slides of the later one are kept, so
    that nothing leaks into the choice of the epoch or into the test.

    Raises:
        CohortError: it is not this set, or the workbook and the folders disagree.
    """
    images = folder / "BRACS_WSI"
    if not images.is_dir():
        raise SOURCE.refuse(folder, "no folder BRACS_WSI here")
    labels = folder / "BRACS.xlsx"
    rows = [_row(labels, cells, images) for cells in _cells(labels)]
    here = files_below(images, ".svs")
    refuse_strangers(SOURCE, labels, set(here) - {row.slide_id.lower() for row in rows})
    for row in rows:
        _refuse_other_folder(row, here.get(row.slide_id.lower(), row.path))
    return _without_leaks(rows)


def _cells(path: Path) -> list[dict[str, str]]:
    """Read the sheet's rows by the names of their columns, spelled as the owners may."""
    header, *lines = read_sheet(SOURCE, path, SHEET) or [[]]
    names = [" ".join(cell.lower().split()) for cell in header]
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise SOURCE.refuse(
            path, f"no column {', '.join(missing)} in {SHEET}, so it is of another release"
        )
    return [dict(zip(names, line, strict=False)) for line in lines if any(line)]


def _row(labels: Path, cells: dict[str, str], images: Path) -> Row:
    name, subtype = cells["wsi filename"].removesuffix(".svs"), cells["wsi label"].upper()
    part = SETS.get(cells["set"].lower())
    if subtype not in SUBTYPES or part is None:
        raise SOURCE.refuse(
            labels,
            f"{name} of label {cells['wsi label']!r} in set {cells['set']!r}, where "
            f"{', '.join(SUBTYPES)} and {', '.join(SETS)} are known, so it is of another release",
        )
    label = SUBTYPES[subtype]
    group = {BENIGN: "BT", ATYPICAL: "AT", MALIGNANT: "MT"}[label]
    path = images / part / f"Group_{group}" / f"Type_{subtype}" / f"{name}.svs"
    patient = cells["patient id"].removesuffix(".0")  # a number, in a spreadsheet
    return Row(name, path, label, patient_id=patient, split=part, stratum=subtype)


def _refuse_other_folder(row: Row, found: Path) -> None:
    """Refuse a slide whose folders say other than the workbook."""
    if found != row.path:
        raise SOURCE.refuse(
            found, f"BRACS.xlsx has it in {row.path.parent}, so the two are of different releases"
        )


def _without_leaks(rows: list[Row]) -> Listing:
    """Leave out slides whose patient also stands in a part that is looked at later."""
    last: dict[str, int] = {}
    for row in rows:
        last[row.patient_id] = max(last.get(row.patient_id, 0), _rank(row))
    kept = tuple(row for row in rows if _rank(row) == last[row.patient_id])
    patients = sorted({row.patient_id for row in rows if _rank(row) < last[row.patient_id]})
    note = (
        f"{len(rows) - len(kept)} left out, of patient {', '.join(patients)}, whose other slides "
        "the owners put into a later part"
    )
    absent = max(0, PUBLISHED - len(rows))
    return Listing(kept, absent=absent, notes=(note,) if patients else ())


def _rank(row: Row) -> int:
    assert row.split is not None
    return PARTS.index(row.split)
