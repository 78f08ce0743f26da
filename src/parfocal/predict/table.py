"""Read and write predictions.csv, the table of all slides predicted into a folder."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from parfocal.distribute.claims import hold
from parfocal.explain.read_record import RecordError, read_prediction
from parfocal.explain.record import PredictionRecord
from parfocal.files import write_whole
from parfocal.models.checkpoint import Checkpoint
from parfocal.printable import printable
from parfocal.slide.identity import slide_id
from parfocal.slide.sources.url import SlidePath, recorded_path
from parfocal.tasks import task_of

TABLE_FILE = "predictions.csv"
CLAIM_FILE = ".predictions.claim"
MAX_WAIT_S = 60.0


def columns_of(trained: Checkpoint) -> list[str]:
    """Return the columns of what a model predicts: `prob_<class>`, or `pred_<output>`.

    Several models also have `sd_<name>`, the spread of their answers.
    """
    task = task_of(trained)
    names, prefix = list(task.classes), "prob_"
    if not names:
        names, prefix = list(task.answer(torch.zeros(len(task.output_names))).outputs), "pred_"
    spread = [f"sd_{name}" for name in names if trained.members]
    return [*(f"{prefix}{name}" for name in names), *spread]


def header(columns: Sequence[str]) -> list[str]:
    """Return the names of all columns."""
    return ["slide_id", "path", "predicted", *columns, "failed"]


def row(record: PredictionRecord, columns: Sequence[str]) -> list[str]:
    """Return the row of a predicted slide."""
    values = _values(record)
    numbers = [f"{values[column]:.6f}" for column in columns]
    return [record.slide.id, printable(record.slide.path or ""), record.label, *numbers, ""]


def _values(record: PredictionRecord) -> dict[str, float]:
    """Return the numbers of a prediction by column."""
    numbers = {f"prob_{label}": value for label, value in record.probabilities.items()}
    numbers = numbers or {f"pred_{name}": value for name, value in record.outputs.items()}
    return numbers | {f"sd_{name}": value for name, value in record.spread.items()}


def failed_row(path: SlidePath, reason: str, columns: Sequence[str]) -> list[str]:
    """Return the row of a slide that failed, with the reason in the last column."""
    return [slide_id(path), printable(recorded_path(path)), "", *("" for _ in columns), reason]


def read_rows(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """Read the rows that earlier calls wrote, by slide; none if there is no table yet.

    Raises:
        ValueError: the table is of other classes.
    """
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        found, *rows = [row for row in csv.reader(file) if row] or [[]]
    if found != header(columns):
        classes = [column.removeprefix("prob_").removeprefix("pred_") for column in columns]
        what = "classes" if columns[0].startswith("prob_") else "outputs"
        raise ValueError(
            f"{path}: the columns are {', '.join(found)}, but the {what} of this model are "
            f"{', '.join(classes)}; predict into another folder."
        )
    return {row[0]: row for row in rows}


def update(out: Path, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Bring the table of a folder up to date; other processes may do the same at this time.

    The table keeps its rows of other slides. A prediction in the folder that has no row yet, or
    that is newer than the table, as after a killed call, gets the row of its JSON file.

    Args:
        out: folder of predictions.
        columns: columns of what the model predicts, as of `columns_of`.
        rows: rows of this call, by slide.

    Raises:
        ValueError: the table is of other classes.
        ClaimError: other processes keep the table busy for more than a minute.
        OSError: the table cannot be written.
    """
    path = out / TABLE_FILE
    with hold(out / CLAIM_FILE, wait_s=MAX_WAIT_S):
        stored = read_rows(path, columns)
        written = path.stat().st_mtime if path.exists() else 0.0
        merged = {**stored, **_unlisted(out, columns, stored, rows, written), **rows}
        _write_rows(path, columns, merged.values())


def _unlisted(
    out: Path,
    columns: Sequence[str],
    stored: Mapping[str, Sequence[str]],
    rows: Mapping[str, Sequence[str]],
    written: float,
) -> dict[str, list[str]]:
    """Return rows of the predictions in a folder that the table does not have as they are."""
    found: dict[str, list[str]] = {}
    for file in sorted(out.glob("*.json")):
        listed = file.stem in stored and stored[file.stem][-1] == ""
        if file.stem in rows or (listed and file.stat().st_mtime < written):
            continue
        try:
            record = read_prediction(file)
        except RecordError:
            continue  # another file, or damaged, which `report` and `view` say
        if set(_values(record)) == set(columns) and record.slide.id == file.stem:
            found[file.stem] = row(record, columns)
    return found


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write the table, completely or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header(columns), *rows])
    write_whole(path, text.getvalue().encode())
