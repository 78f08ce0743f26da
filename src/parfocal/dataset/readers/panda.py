"""PANDA: 10,616 prostate biopsies of two centers with ISUP grades 0 to 5.

Expected files: `train.csv` (image_id, data_provider, isup_grade, gleason_score) and
`train_images/ID.tiff`.
"""

from pathlib import Path

from parfocal.dataset.readers.listing import (
    Listing,
    Row,
    Source,
    files_by_stem,
    read_table,
    refuse_unlisted,
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
    """List PANDA without a split; the label is the ISUP grade, the stratum the center.

    A biopsy with an ISUP grade that contradicts its Gleason score is excluded, with a note.

    Raises:
        CohortError: the folder does not hold PANDA, or the label file belongs to another data set.
    """
    images, labels = folder / "train_images", folder / "train.csv"
    if not images.is_dir():
        raise SOURCE.error(folder, "no folder train_images here")
    rows: list[Row] = []
    contradictory: list[Row] = []
    for cells in read_table(SOURCE, labels, COLUMNS):
        name, grade = cells["image_id"], cells["isup_grade"]
        score = cells["gleason_score"]
        if score not in GRADES or grade not in GRADES.values():
            raise SOURCE.error(
                labels, f"{name} has grade {grade!r} and score {score!r}, which do not exist"
            )
        row = Row(name, images / f"{name}.tiff", grade, stratum=cells["data_provider"])
        (rows if GRADES[score] == grade else contradictory).append(row)
    known = {row.slide_id.lower() for row in rows + contradictory}
    refuse_unlisted(SOURCE, labels, set(files_by_stem(images, ".tiff")) - known)
    notes = ["patients are not published: biopsies of one patient may be in two parts"]
    notes += [
        f"excluded {row.slide_id}: its ISUP grade contradicts its Gleason score"
        for row in contradictory
    ]
    absent = max(0, PUBLISHED - len(rows) - len(contradictory))
    return Listing(tuple(rows), absent=absent, notes=tuple(notes))
