"""PANDA: 10,616 prostate biopsies of two centers with their ISUP grade, 0 to 5.

`train.csv` (image_id, data_provider, isup_grade, gleason_score) and `train_images/ID.tiff`.
"""

from pathlib import Path

from parfocal.dataset.readers.listing import (
    Listing,
    Row,
    Source,
    files_below,
    read_table,
    refuse_strangers,
)

SOURCE = Source(
    name="PANDA",
    address="https://www.kaggle.com/c/prostate-cancer-grade-assessment (register there)",
    license="CC BY-NC-SA 4.0 (to be checked there)",
    size="about 412 GB",
)
PUBLISHED = 10_616
COLUMNS = ("image_id", "data_provider", "isup_grade", "gleason_score")
GRADES = {
    **dict.fromkeys(("0+0", "negative"), "0"),
    **{"3+3": "1", "3+4": "2", "4+3": "3"},
    **dict.fromkeys(("4+4", "3+5", "5+3"), "4"),
    **dict.fromkeys(("4+5", "5+4", "5+5"), "5"),
}


def read(folder: Path, seed: int) -> Listing:
    """List PANDA; the label is the ISUP grade, the stratum the center; it has no split.

    A biopsy whose two grades contradict each other is left out, and named.

    Raises:
        CohortError: it is not this set, or its label file is another's.
    """
    images, labels = folder / "train_images", folder / "train.csv"
    if not images.is_dir():
        raise SOURCE.refuse(folder, "no folder train_images here")
    rows: list[Row] = []
    doubtful: list[Row] = []
    for cells in read_table(SOURCE, labels, COLUMNS):
        name, grade = cells["image_id"], cells["isup_grade"]
        score = cells["gleason_score"]
        if score not in GRADES or grade not in GRADES.values():
            raise SOURCE.refuse(
                labels, f"{name} of grade {grade!r} and score {score!r}, which no biopsy has"
            )
        row = Row(name, images / f"{name}.tiff", grade, stratum=cells["data_provider"])
        (rows if GRADES[score] == grade else doubtful).append(row)
    known = {row.slide_id.lower() for row in rows + doubtful}
    refuse_strangers(SOURCE, labels, set(files_below(images, ".tiff")) - known)
    notes = ["patients are not published: biopsies of one may stand in two parts"]
    notes += [
        f"{row.slide_id} is left out: its ISUP grade is not that of its Gleason score"
        for row in doubtful
    ]
    absent = max(0, PUBLISHED - len(rows) - len(doubtful))
    return Listing(tuple(rows), absent=absent, notes=tuple(notes))
