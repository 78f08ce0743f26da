"""Write patients.csv, the table of all patients predicted into a folder."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from parfocal.distribute.claims import hold
from parfocal.explain.patient_record import PatientRecord
from parfocal.files import write_whole
from parfocal.predict import table

TABLE_FILE = "patients.csv"
CLAIM_FILE = ".patients.claim"
MAX_WAIT_S = 60.0


def update_table(
    out: Path,
    columns: Sequence[str],
    records: Sequence[PatientRecord],
    failed: Mapping[str, str],
) -> None:
    """Bring the table of a folder up to date; it keeps its rows of other patients.

    Args:
        out: folder of predictions.
        columns: columns of what the model predicts.
        records: predictions of this call.
        failed: reason of each patient that failed, by id.

    Raises:
        ValueError: the table is of other classes.
        ClaimError: other processes keep the table busy for more than a minute.
        OSError: the table cannot be written.
    """
    with hold(out / CLAIM_FILE, wait_s=MAX_WAIT_S):
        rows = read_table(out, columns)
        rows |= {record.id: _row(record, columns) for record in records}
        empty = [""] * (len(columns) + 3)
        rows |= {name: [name, *empty, reason] for name, reason in failed.items()}
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_header(columns), *rows.values()])
        write_whole(out / TABLE_FILE, text.getvalue().encode())


def read_table(out: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the rows of earlier calls, by patient; none if there is no table yet.

    Args:
        out: folder of predictions.
        columns: columns of what the model predicts.

    Raises:
        ValueError: the table is of other classes.
    """
    path = out / TABLE_FILE
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        found, *rows = [row for row in csv.reader(file) if row] or [[]]
    if found != _header(columns):
        raise ValueError(
            f"{path}: the columns are {', '.join(found)}, but those of this model are "
            f"{', '.join(_header(columns))}; predict into another folder."
        )
    return {row[0]: row for row in rows}


def _header(columns: Sequence[str]) -> list[str]:
    return ["patient_id", "slides", "predicted", *columns, "left_out", "failed"]


def _row(record: PatientRecord, columns: Sequence[str]) -> list[str]:
    slides = " ".join(each.slide.id for each in record.slides)
    _, _, predicted, *numbers, _ = table.row(record.slides[0], columns)
    return [record.id, slides, predicted, *numbers, " ".join(record.left_out), ""]
