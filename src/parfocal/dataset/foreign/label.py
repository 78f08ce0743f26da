"""Choose the column of the class, and read it."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from parfocal.dataset.columns import plain_column
from parfocal.dataset.errors import CohortError
from parfocal.dataset.foreign.cohort_columns import has_meaning
from parfocal.dataset.foreign.join import Joined, JoinedSlide
from parfocal.dataset.foreign.names import DECIMAL_ZERO, listed
from parfocal.dataset.foreign.roles import LABEL
from parfocal.dataset.foreign.task import TaskConfig
from parfocal.printable import counted


@dataclass(frozen=True)
class Label:
    """The classes of slides.

    Args:
        column: column of the tables; None if the cohort gets no label.
        values: class of each slide, by id.
        unlabeled: ids of slides without a class, which are left out.
        notes: what was chosen, and what was left out.
    """

    column: str | None
    values: Mapping[str, str] = field(default_factory=dict)
    unlabeled: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def choose_label(joined: Joined, task: TaskConfig | None, named: str | None) -> Label:
    """Return the classes of slides.

    The column is the one that the user or the task names, or `label`, or the only other column.
    If there are several, the cohort has no label.

    Args:
        joined: slides with the other columns of the tables.
        task: task of Patho-Bench; None if there is none.
        named: column that the user names; None for no name.

    Raises:
        CohortError: there is no such column, or no slide has a class.
    """
    if task is not None and task.time and named is None:
        return Label(None)  # its label is a group of times and events, for drawing folds
    column = _column(joined, task, named)
    if column is None:
        candidates = _candidates(joined)
        text = f"several columns may be it ({listed(candidates)})" if candidates else "no column"
        advice = "name it with --label COLUMN for classification"
        return Label(None, notes=(f"no label: {text}; {advice}",))
    names = task.names if task is not None and column == task.column else {}
    values = {s.slide_id: _name(s.values.get(column, ""), names) for s in joined.slides}
    unlabeled = [slide_id for slide_id, value in values.items() if not value]
    if len(unlabeled) == len(values):
        raise CohortError(f"column {column}: no slide has a value in it; give another --label.")
    notes = [] if column == "label" else [f"renamed: {column} = label"]
    if unlabeled:
        notes.append(
            f"dropped {counted(len(unlabeled), 'slide')} without {column}: {listed(unlabeled)}"
        )
    notes += _several_classes(joined, column, values)
    return Label(column, values, frozenset(unlabeled), notes=tuple(notes))


def _column(joined: Joined, task: TaskConfig | None, named: str | None) -> str | None:
    """Return the column of the class; None if several may be meant."""
    wanted = named or (task.column if task else None)
    by_plain = {plain_column(name): name for name in joined.columns}
    if wanted is not None:
        found = wanted if wanted in joined.columns else by_plain.get(plain_column(wanted))
        if found is None:
            source = "--label" if named else f"task_col of {task.source.name}" if task else ""
            raise CohortError(
                f"{source} {wanted}: no table has this column (found: {', '.join(joined.columns)})."
            )
        return found
    usual = next((by_plain[name] for name in LABEL if name in by_plain), None)
    candidates = _candidates(joined)
    return usual or (candidates[0] if len(candidates) == 1 else None)


def _candidates(joined: Joined) -> list[str]:
    """Return the columns that may be the label: those that mean nothing else in a cohort."""
    return [name for name in joined.columns if not has_meaning(name)]


def _name(value: str, names: Mapping[str, str]) -> str:
    """Return the name of a class that a table has as a number."""
    if not names or not value:
        return value
    decimal = DECIMAL_ZERO.fullmatch(value)
    return names.get(decimal[1] if decimal else value, value)


def _several_classes(joined: Joined, column: str, values: Mapping[str, str]) -> list[str]:
    """Return a note on patients whose slides have several classes."""
    by_patient: dict[str, list[JoinedSlide]] = defaultdict(list)
    for slide in joined.slides:
        if values[slide.slide_id]:
            by_patient[slide.patient].append(slide)
    several = [
        f"{patient} ({', '.join(Counter(values[s.slide_id] for s in slides))})"
        for patient, slides in by_patient.items()
        if len({values[slide.slide_id] for slide in slides}) > 1
    ]
    if not several:
        return []
    return [
        f"{counted(len(several), 'patient')} with slides of several classes "
        f"({listed(several)}), so there are no scores for patients"
    ]
