"""Read the table that says which slides are of which patient, with the covariates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parfocal.dataset.columns import plain_column
from parfocal.dataset.errors import CohortError
from parfocal.dataset.rows import columns_text
from parfocal.dataset.table import TableError, read_cells
from parfocal.models.unit import Per
from parfocal.slide.identity import slide_id
from parfocal.slide.sources.url import SlidePath

PATIENT_COLUMNS = ("patient", "patientid", "case", "caseid")  # without case, spaces, - and _
SLIDE_COLUMNS = ("slide", "slideid", "filename", "path")
MAX_LISTED = 3


@dataclass(frozen=True)
class PatientSlides:
    """The slides of a patient that are predicted together.

    Args:
        id: the patient.
        paths: the slides.
        missing: names of slides in the table that are not among those given.
        covariates: clinical values by column, as they are written.
    """

    id: str
    paths: tuple[SlidePath, ...]
    missing: tuple[str, ...] = ()
    covariates: Mapping[str, str] | None = None


def read_patients(
    table: Path,
    paths: Sequence[SlidePath],
    covariates: Sequence[str] = (),
    *,
    per: Per = "patient",
) -> tuple[PatientSlides, ...]:
    """Group slides by patient.

    Args:
        table: a CSV file or workbook with the columns patient and slide, which is the name of a
            slide with or without its folder and extension, and the covariates.
        paths: the slides. Patients of whom none is given are left out.
        covariates: columns that the model needs.
        per: "patient", or "slide" to predict each slide by itself, with its covariates.

    Raises:
        CohortError: the table cannot be read, lacks a column, contradicts itself, or does not name
            the patient of a slide.
    """
    by_name: dict[str, SlidePath] = {}
    for path in paths:
        by_name.setdefault(slide_id(path), path)
    rows = _rows(table, covariates, {path.name: slide_id(path) for path in paths})
    if per == "slide":
        rows = [replace(row, patient=row.slide) for row in rows]
    patients: dict[str, list[_Row]] = {}
    for row in rows:
        patients.setdefault(row.patient, []).append(row)
    _refuse_two_patients(table, rows)
    named = {row.slide for row in rows}
    unnamed = [str(path) for name, path in by_name.items() if name not in named]
    if unnamed:
        more = ", ..." if len(unnamed) > MAX_LISTED else ""
        raise CohortError(
            f"{table.name}: no row for {len(unnamed)} of {len(by_name)} slides "
            f"({', '.join(unnamed[:MAX_LISTED])}{more}); add a row with patient and slide for each."
        )
    return tuple(
        PatientSlides(
            patient,
            tuple(by_name[row.slide] for row in group if row.slide in by_name),
            tuple(row.slide for row in group if row.slide not in by_name),
            _values(table, group, covariates),
        )
        for patient, group in patients.items()
        if any(row.slide in by_name for row in group)
    )


@dataclass(frozen=True)
class _Row:
    number: int
    patient: str
    slide: str
    values: Mapping[str, str]


def _rows(table: Path, covariates: Sequence[str], ids: Mapping[str, str]) -> list[_Row]:
    """Read the rows of the table.

    Args:
        table: the table.
        covariates: columns that it must have.
        ids: ids of the given slides by name of their file.
    """
    try:
        lines = read_cells(table)
    except TableError as error:
        raise CohortError(f"{table}: {error}; give a .csv or .xlsx file.") from None
    header = lines[0][1] if lines else []
    plain = [plain_column(name) for name in header]
    slide = _column(table, header, plain, SLIDE_COLUMNS)
    # Without patients, each slide is one, as in a cohort.
    patient = next((plain.index(name) for name in PATIENT_COLUMNS if name in plain), None)
    if missing := [name for name in covariates if name not in header]:
        pronoun = "it" if len(missing) == 1 else "them"
        raise CohortError(
            f"{table.name}: no {columns_text(missing)}, which the model predicts from (found: "
            f"{', '.join(header)}); add {pronoun}, with an empty cell where a value is missing."
        )
    rows = []
    for number, cells in lines[1:]:
        padded = [*cells, *[""] * (len(header) - len(cells))]
        if not padded[slide]:
            raise CohortError(f"{table.name} row {number}: slide is empty; write its name.")
        file = padded[slide].replace("\\", "/").rstrip("/").rpartition("/")[2]
        name = ids.get(file, file)
        rows.append(
            _Row(
                number,
                (padded[patient] if patient is not None else "") or name,
                name,
                dict(zip(header, padded, strict=False)),
            )
        )
    if not rows:
        raise CohortError(f"{table.name}: no rows below the header; add one for each slide.")
    return rows


def _column(table: Path, header: Sequence[str], plain: Sequence[str], names: Sequence[str]) -> int:
    for name in names:
        if name in plain:
            return plain.index(name)
    raise CohortError(
        f"{table.name}: no column {names[0]} (found: {', '.join(header) or 'nothing'}); it needs "
        "the columns patient and slide."
    )


def _refuse_two_patients(table: Path, rows: Sequence[_Row]) -> None:
    first: dict[str, _Row] = {}
    for row in rows:
        other = first.setdefault(row.slide, row)
        if other is not row:
            raise CohortError(
                f"{table.name} row {row.number}: slide {row.slide!r} is also in row "
                f"{other.number} (patients {other.patient!r} and {row.patient!r}); keep one."
            )


def _values(table: Path, rows: Sequence[_Row], covariates: Sequence[str]) -> dict[str, str] | None:
    """Return the covariates of a patient, which all rows must agree on; some may be empty."""
    values: dict[str, str] = {}
    for column in covariates:
        known = [row for row in rows if row.values[column]]
        for row in known[1:]:
            if row.values[column] != known[0].values[column]:
                raise CohortError(
                    f"{table.name} row {row.number}: patient {row.patient!r} has {column} "
                    f"{row.values[column]!r}, but {known[0].values[column]!r} in row "
                    f"{known[0].number}; correct one of the rows."
                )
        values[column] = known[0].values[column] if known else ""
    return values or None
