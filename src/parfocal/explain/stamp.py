"""Write the predictions of evaluations as the tables of STAMP, one row per patient.

The columns are those that STAMP's statistics read: PATIENT, the true value under the name of the
target, `pred`, and `<target>_<class>` for each class; for survival `pred_score`, time and event.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from parfocal.explain.read_metrics import read_metrics
from parfocal.explain.report.sources import ReportError
from parfocal.explain.truths import files_in, require_file
from parfocal.files import write_whole
from parfocal.operating_point import OperatingPoint, Threshold
from parfocal.tasks import parse_task
from parfocal.tasks.cells import FALSE, TRUE

FILE = "patient-preds.csv"
PATIENT = "PATIENT"
SMALLEST = 1e-12  # probability that a loss is computed of

Row = dict[str, str]


@dataclass(frozen=True)
class PatientRows:
    """The rows of predictions.csv of one patient.

    Args:
        id: the patient.
        rows: its rows: one per slide, or one for the patient.
    """

    id: str
    rows: tuple[Row, ...]

    def mean(self, column: str) -> float:
        """Return the mean of a column of numbers over the rows."""
        return fmean(float(row[column]) for row in self.rows)

    def truth(self, column: str, file: Path) -> str:
        """Return the true value of the patient; empty if it is missing.

        Raises:
            ReportError: the slides have different ones.
        """
        values = list(dict.fromkeys(row[column] for row in self.rows if row[column]))
        if len(values) > 1:
            raise ReportError(
                f"{file}: the slides of patient {self.id!r} have different values of {column} "
                f"({', '.join(values)}), and STAMP has one per patient; correct the cohort."
            )
        return values[0] if values else ""


def write_stamp_tables(
    paths: Sequence[Path], out: Path, *, target: str | None = None, name: str | None = None
) -> list[Path]:
    """Write the predictions of evaluations as patient-preds.csv of STAMP.

    Of one evaluation, the table is `out/patient-preds.csv`; of several, such as those of folds,
    `out/split-0/patient-preds.csv` and so on. Numbers of several slides of a patient are averaged.

    Args:
        paths: folders of evaluations, or folders that contain these.
        out: folder to write to.
        target: column of one of several targets.
        name: name of the target in the table; None for its column.

    Returns:
        The files that were written.

    Raises:
        ReportError: there is no evaluation, a patient has several values, or the table would have
            several targets of which STAMP reads one.
    """
    files = [file for path in paths for file in files_in(path, "metrics.json")]
    if not files:
        searched = ", ".join(map(str, paths))
        raise ReportError(
            f"{searched}: no evaluation here or in the direct subfolders; give the folder that "
            "`parfocal evaluate` wrote."
        )
    tables = [_table(file, target, name) for file in files]
    written = []
    for number, table in enumerate(tables):
        path = out / FILE if len(tables) == 1 else out / f"split-{number}" / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, _to_csv(table).encode())
        written.append(path)
    return written


def _table(file: Path, target: str | None, name: str | None) -> list[dict[str, object]]:
    """Return the rows of a table of STAMP, in its order: the smallest loss first."""
    try:
        metrics = read_metrics(file)
        patients = _patients(file.with_name("predictions.csv"))
        task = metrics.get("task") or {"name": "classification", "labels": metrics["labels"]}
        part = _part(task, target, file)
        point = _operating_point(metrics)
        rows = _rows(part, patients, file, name, point=point, in_joint="parts" in task)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ReportError(f"{file.parent}: damaged ({error}); evaluate again.") from None
    return sorted(rows, key=lambda row: _order(row.get("loss")))


def _operating_point(metrics: Mapping[str, Any]) -> OperatingPoint:
    """Return the thresholds of an evaluation; none if the most probable class is predicted."""
    stored = (metrics.get("operating_point") or {}).get("thresholds") or {}
    return OperatingPoint(
        thresholds={label: Threshold(each["chosen"]["value"]) for label, each in stored.items()}
    )


def _order(loss: object) -> float:
    return loss if isinstance(loss, float) else math.inf


def _patients(file: Path) -> list[PatientRows]:
    require_file(file)
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    by_patient: dict[str, list[Row]] = {}
    for row in rows:
        by_patient.setdefault(row["patient_id"], []).append(row)
    return [PatientRows(name, tuple(each)) for name, each in by_patient.items()]


def _part(task: Mapping[str, Any], target: str | None, file: Path) -> dict[str, Any]:
    """Return the task, or the one with a target of several; with `targets` cut to that target."""
    parts = [dict(part) for part in task.get("parts", [task])]
    columns = [(part, parse_task(part).columns) for part in parts]
    if target is not None:
        found = [part for part, names in columns if target in names]
        if not found:
            known = ", ".join(name for _, names in columns for name in names)
            raise ReportError(f"--target {target}: {file.parent} has the targets {known}.")
        (part,) = found
        return (
            {**part, "targets": [target]} if part["name"] in ("regression", "multilabel") else part
        )
    several = len(parts) > 1 or (parts[0]["name"] == "regression" and len(columns[0][1]) > 1)
    if several:
        known = ", ".join(name for _, names in columns for name in names)
        raise ReportError(
            f"{file.parent}: it has several targets ({known}), and a table of STAMP has one; name "
            "it with --target COLUMN."
        )
    return parts[0]


def _rows(
    task: Mapping[str, Any],
    patients: Sequence[PatientRows],
    file: Path,
    name: str | None,
    *,
    point: OperatingPoint,
    in_joint: bool,
) -> list[dict[str, object]]:
    kind = task["name"]
    if name is not None and kind in ("survival", "hazards", "multilabel"):
        raise ReportError(
            f"--name {name}: the table of task {kind} has the columns of the cohort "
            f"({', '.join(parse_task(task).columns)}), and none to rename; leave --name out."
        )
    if kind in ("survival", "hazards"):
        return [_time_row(task, patient, file) for patient in patients]
    if kind == "regression":
        (target,) = task["targets"]
        return [_number_row(target, name or target, patient, file) for patient in patients]
    if kind == "multilabel":
        targets = task["targets"]
        return [_label_row(targets, patient, file, point=point) for patient in patients]
    target = task.get("target", "label")
    prefix = f"pred_{target}=" if in_joint else "prob_"
    column = target if in_joint else "label"
    classes = {label: f"{prefix}{label}" for label in task["labels"]}
    return [
        _class_row(classes, column, name or target, each, file, point=point) for each in patients
    ]


def _class_row(
    classes: Mapping[str, str],
    column: str,
    name: str,
    patient: PatientRows,
    file: Path,
    *,
    point: OperatingPoint,
) -> dict[str, object]:
    """Return the row of a patient with a class.

    Args:
        classes: column of the probability of each class, by label.
        column: column of the true class.
        name: name of the target.
        patient: the patient.
        file: the evaluation, for messages.
        point: the thresholds.
    """
    truth = patient.truth(column, file)
    probabilities = {label: patient.mean(each) for label, each in classes.items()}
    known = probabilities.get(truth)
    most_probable = max(probabilities, key=probabilities.__getitem__)
    return {
        PATIENT: patient.id,
        name: truth,
        "pred": point.decided_label(probabilities) or most_probable,
        **{f"{name}_{label}": f"{value:.6g}" for label, value in probabilities.items()},
        "loss": None if known is None else -math.log(max(known, SMALLEST)),
    }


def _label_row(
    targets: Iterable[str], patient: PatientRows, file: Path, *, point: OperatingPoint
) -> dict[str, object]:
    """Return the row of a patient with several labels, each 0 or 1."""
    limits = {target: each.value for target, each in point.thresholds.items()}
    truths = {target: _flag(patient.truth(target, file)) for target in targets}
    chances = {target: patient.mean(f"pred_{target}") for target in truths}
    row: dict[str, object] = {PATIENT: patient.id, **truths}
    losses = []
    for target, chance in chances.items():
        row[f"pred_{target}"] = "1" if chance >= limits.get(target, 0.5) else "0"
        row[f"{target}_0"], row[f"{target}_1"] = f"{1 - chance:.6g}", f"{chance:.6g}"
        if truths[target]:
            known = chance if truths[target] == "1" else 1 - chance
            losses.append(-math.log(max(known, SMALLEST)))
    return {**row, "loss": sum(losses) if losses else None}


def _number_row(target: str, name: str, patient: PatientRows, file: Path) -> dict[str, object]:
    """Return the row of a patient with a number; the loss is the absolute error."""
    truth, predicted = patient.truth(target, file), patient.mean(f"pred_{target}")
    loss = abs(predicted - float(truth.replace(",", "."))) if truth else None
    return {PATIENT: patient.id, name: truth, "pred": f"{predicted:.6g}", "loss": loss}


def _time_row(task: Mapping[str, Any], patient: PatientRows, file: Path) -> dict[str, object]:
    """Return the row of a patient with a time and an event."""
    return {
        PATIENT: patient.id,
        "pred_score": f"{patient.mean('pred_risk'):.6g}",
        task["time"]: patient.truth(task["time"], file),
        task["event"]: _flag(patient.truth(task["event"], file)),
    }


def _flag(text: str) -> str:
    """Return 0 or 1 for the text of a flag, as STAMP reads it; empty if it is missing."""
    plain = text.casefold().partition(":")[0].strip()
    return "1" if plain in TRUE else "0" if plain in FALSE else ""


def _to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = list(rows[0]) if rows else [PATIENT]
    writer.writerow(header)
    for row in rows:
        cells = [row[name] for name in header]
        writer.writerow(
            "" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else cell
            for cell in cells
        )
    return text.getvalue()
