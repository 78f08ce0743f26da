"""Build the rows of a cohort CSV from joined tables."""

from collections.abc import Mapping, Sequence

from parfocal.dataset.columns import plain_column
from parfocal.dataset.foreign.join import JoinedSlide
from parfocal.dataset.foreign.label import Label
from parfocal.dataset.foreign.splits import Fold
from parfocal.dataset.foreign.values import recoded
from parfocal.dataset.rows import OPTIONAL, REQUIRED

# Columns that have the same name and meaning in a cohort.
SAME = ("mpp", "stratum", "tissue", "outlines", "outlines_offset")
RESERVED = {plain_column(name) for name in (*REQUIRED, *OPTIONAL)} - set(map(plain_column, SAME))


def cohort_table(
    slides: Sequence[JoinedSlide],
    paths: Mapping[str, str],
    label: Label,
    folds: Sequence[Fold],
    columns: Sequence[str],
) -> tuple[list[list[str]], list[str]]:
    """Return the header and the rows of a cohort CSV, and notes on columns that were changed.

    Args:
        slides: the slides.
        paths: path of each slide, by id.
        label: the classes.
        folds: the parts of each fold; one fold is written as a column `split`.
        columns: other columns, which are kept.
    """
    ids = [slide.slide_id for slide in slides]
    table = {"slide_id": ids, "path": [paths[slide_id] for slide_id in ids]}
    if label.column is not None:
        table["label"] = [label.values[slide_id] for slide_id in ids]
    table["patient_id"] = [slide.patient for slide in slides]
    for number, fold in enumerate(folds):
        name = "split" if len(folds) == 1 else f"fold_{number}"
        table[name] = [fold.parts.get(slide_id, "") for slide_id in ids]
    notes = []
    for column in columns:
        if column == label.column:
            continue
        name, values, note = recoded(column, [slide.values.get(column, "") for slide in slides])
        if plain_column(name) in RESERVED or name in table:
            notes.append(f"renamed: {name} = table_{plain_column(name)}")
            name = f"table_{plain_column(name)}"
        notes += [note] if note else []
        table[name] = values
    return [[*table], *(list(row) for row in zip(*table.values(), strict=True))], notes
