"""Join tables of slides and of patients into one row per slide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from parfocal.dataset.errors import CohortError
from parfocal.dataset.foreign.names import Names, listed, stem_of
from parfocal.dataset.foreign.roles import Columns, other_columns
from parfocal.dataset.foreign.source import SourceTable
from parfocal.dataset.spelling import hidden_character, is_missing
from parfocal.printable import counted

Described = tuple[SourceTable, Columns]


@dataclass(frozen=True)
class JoinedSlide:
    """A slide with what the tables say about it and its patient.

    Args:
        table: table of the slide.
        row: row number in it.
        name: name in the table, possibly with folder and extension.
        slide_id: its id.
        patient: its patient; the slide id where there is none.
        values: other columns, of the table of slides and of patients.
        parts: cells of the columns of folds.
    """

    table: SourceTable
    row: int
    name: str
    slide_id: str
    patient: str
    values: dict[str, str]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Joined:
    """The slides of all tables.

    Args:
        slides: the slides, in the order of their table.
        columns: names of the other columns, in order.
        of_patients: those that come from tables of patients.
        folds: columns of folds.
        notes: what was left out, and why.
    """

    slides: tuple[JoinedSlide, ...]
    columns: tuple[str, ...]
    of_patients: frozenset[str]
    folds: tuple[str, ...]
    notes: tuple[str, ...]


def join(tables: Sequence[Described]) -> Joined:
    """Join one table of slides with the tables of patients.

    Raises:
        CohortError: there is no table of slides, or several; or tables contradict each other.
    """
    of_slides = [each for each in tables if each[1].slide is not None]
    of_patients = [each for each in tables if each[1].slide is None and each[1].patient is not None]
    ignored = [table.name for table, columns in tables if columns.slide == columns.patient is None]
    notes = [f"dropped {name}: no column of slides or patients" for name in ignored]
    table, columns = _one_table_of_slides(of_slides, of_patients)
    slides = _slides(table, columns, notes)
    names = other_columns(table, columns)
    if of_patients:
        if columns.patient is None:
            raise CohortError(
                f"{table.name}: no column of patients to join {of_patients[0][0].name} by "
                f"(found: {', '.join(table.columns)}); name it with --patient COLUMN."
            )
        patients = _patients(of_patients, names)
        slides = _with_patients(slides, patients, names, of_patients, notes)
    added = [name for described in of_patients for name in other_columns(*described)]
    return Joined(tuple(slides), (*names, *added), frozenset(added), columns.folds, tuple(notes))


def _one_table_of_slides(
    of_slides: Sequence[Described], of_patients: Sequence[Described]
) -> Described:
    if not of_slides:
        if of_patients:
            raise CohortError(
                f"{of_patients[0][0].name}: a table of patients, but there is no table of their "
                "slides; add it (for STAMP, the one with PATIENT and FILENAME), or name the column "
                "of slides with --slide COLUMN."
            )
        raise CohortError(
            "no table has a column of slides; name it with --slide COLUMN, and that of patients "
            "with --patient COLUMN."
        )
    if len(of_slides) > 1:
        names = " and ".join(table.name for table, _ in of_slides)
        raise CohortError(
            f"several tables of slides: {names}; convert one at a time, or name the sheet of a "
            "workbook with --sheet NAME."
        )
    return of_slides[0]


def _slides(table: SourceTable, columns: Columns, notes: list[str]) -> list[JoinedSlide]:
    """Return the slides of a table; equal rows count once."""
    assert columns.slide is not None
    kept = other_columns(table, columns)
    slides: dict[str, JoinedSlide] = {}
    nameless, repeated = [], []
    for number, row in table.rows:
        name = row[columns.slide]
        if is_missing(name):
            nameless.append(f"row {number}")
            continue
        _refuse_hidden(table, number, columns.slide, name)
        patient = row[columns.patient] if columns.patient else ""
        slide = JoinedSlide(
            table=table,
            row=number,
            name=row[columns.path] if columns.path and not is_missing(row[columns.path]) else name,
            slide_id=stem_of(name),
            patient="" if is_missing(patient) else patient,
            values={each: "" if is_missing(row[each]) else row[each] for each in kept},
            parts=tuple(row[fold] for fold in columns.folds),
        )
        first = slides.setdefault(slide.slide_id, slide)
        if first is not slide:
            _refuse_other_row(table, first, slide)
            repeated.append(slide.slide_id)
    if not slides:
        raise CohortError(f"{table.name}: no slide in column {columns.slide}; add rows.")
    if nameless:
        notes.append(f"dropped {counted(len(nameless), 'row')} without a slide: {listed(nameless)}")
    if repeated:
        notes.append(f"{counted(len(repeated), 'slide')} in two equal rows: {listed(repeated)}")
    return [replace(s, patient=s.patient or s.slide_id) for s in slides.values()]


def _refuse_hidden(table: SourceTable, number: int, column: str, text: str) -> None:
    hidden = hidden_character(text)
    if hidden is not None:
        raise CohortError(
            f"{table.name} row {number}: {column} {text!r} contains a character that cannot be "
            f"seen ({hidden}); remove it."
        )


def _refuse_other_row(table: SourceTable, first: JoinedSlide, second: JoinedSlide) -> None:
    """Refuse a slide that is in two rows that are not equal."""
    pairs = {"patient": (first.patient, second.patient)}
    pairs |= {name: (first.values[name], second.values[name]) for name in first.values}
    pairs |= {
        f"fold_{i}": each for i, each in enumerate(zip(first.parts, second.parts, strict=True))
    }
    for column, (one, other) in pairs.items():
        if one != other:
            raise CohortError(
                f"{table.name} row {second.row}: slide {second.slide_id!r} is also in row "
                f"{first.row}, with {column} {one!r} instead of {other!r}; keep one row."
            )


def _patients(
    of_patients: Sequence[Described], slide_columns: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Return the columns of all patients, by patient."""
    patients: dict[str, dict[str, str]] = {}
    owner = dict.fromkeys(slide_columns, "the table of slides")
    for table, columns in of_patients:
        assert columns.patient is not None
        kept = other_columns(table, columns)
        for name in kept:
            if name in owner:
                raise CohortError(
                    f"{table.name}: column {name!r} is also in {owner[name]}; remove or rename one."
                )
            owner[name] = table.name
        rows: dict[str, tuple[int, dict[str, str]]] = {}
        for number, row in table.rows:
            patient = row[columns.patient]
            if is_missing(patient):
                continue
            _refuse_hidden(table, number, columns.patient, patient)
            values = {name: "" if is_missing(row[name]) else row[name] for name in kept}
            first, others = rows.setdefault(patient, (number, values))
            differing = [name for name in kept if others[name] != values[name]]
            if differing:
                name = differing[0]
                raise CohortError(
                    f"{table.name} row {number}: patient {patient!r} is also in row {first}, with "
                    f"{name} {others[name]!r} instead of {values[name]!r}; keep one row for each "
                    "patient."
                )
        for patient, (_, values) in rows.items():
            patients.setdefault(patient, {}).update(values)
    return patients


def _with_patients(
    slides: Sequence[JoinedSlide],
    patients: Mapping[str, dict[str, str]],
    slide_columns: Sequence[str],
    of_patients: Sequence[Described],
    notes: list[str],
) -> list[JoinedSlide]:
    """Return the slides with the columns of their patients; those without a patient are dropped."""
    match, renamed = _match({slide.patient: None for slide in slides}, patients)
    joined, unknown = [], []
    for slide in slides:
        patient = match.get(slide.patient)
        if patient is None:
            unknown.append(slide.slide_id)
            continue
        values = {**slide.values, **patients[patient]}
        best = max(patient, slide.patient, key=_preference)
        joined.append(replace(slide, patient=best, values=values))
    tables = " and ".join(table.name for table, _ in of_patients)
    if not joined:
        raise CohortError(
            f"{tables}: none of the patients of the slides is in this table (slides: "
            f"{listed(slide.patient for slide in slides)}; table: {listed(patients)}); check the "
            "columns, or name them with --patient COLUMN."
        )
    if unknown:
        dropped = counted(len(unknown), "slide")
        notes.append(f"dropped {dropped} of patients not in {tables}: {listed(unknown)}")
    found = set(match.values())
    if lonely := [patient for patient in patients if patient not in found]:
        notes.append(
            f"{counted(len(lonely), 'patient')} of {tables} without a slide: {listed(lonely)}"
        )
    notes += renamed
    return joined


def _match(
    of_slides: Mapping[str, object], of_table: Mapping[str, object]
) -> tuple[dict[str, str], list[str]]:
    """Match patients of slides with those of a table, whose ids may be written in another way.

    Returns:
        The patient of the table by that of the slides, and notes on ids that are not equal.

    Raises:
        CohortError: two patients of the slides would be one of the table.
    """
    forward, back = Names(of_table), Names(of_slides)
    match = {patient: found for patient in of_slides if (found := forward.find(patient))}
    matched = set(match.values())
    for patient in of_table:
        # As `7` of the table is found among 007, 008 of the slides, but not the other way.
        found = None if patient in matched else back.find(patient)
        if found is not None:
            match.setdefault(found, patient)
    owner: dict[str, str] = {}
    for patient, found in match.items():
        if owner.setdefault(found, patient) != patient:
            raise CohortError(
                f"patients {owner[found]!r} and {patient!r} of the slides would both be {found!r} "
                "of the table of patients; write each patient in one way."
            )
    return match, forward.notes("ids of patients") + back.notes("ids of patients")


def _preference(patient: str) -> tuple[bool, int]:
    """Prefer ids without a decimal zero, then longer ones, which have their leading zeros."""
    return not patient.endswith(".0"), len(patient)
