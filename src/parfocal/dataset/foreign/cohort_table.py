"""Build the rows of a cohort CSV from joined tables."""

from collections.abc import Mapping, Sequence

from parfocal.dataset.foreign.cohort_columns import cohort_name
from parfocal.dataset.foreign.join import JoinedSlide
from parfocal.dataset.foreign.label import Label
from parfocal.dataset.foreign.splits import Fold
from parfocal.dataset.foreign.values import recoded


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
        written = cohort_name(name, table)
        if written != name:
            notes.append(f"renamed: {name} = {written}")
        notes += [note] if note else []
        table[written] = values
    return [[*table], *(list(row) for row in zip(*table.values(), strict=True))], notes
