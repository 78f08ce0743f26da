"""Read which part each slide has in each fold, as CLAM, Patho-Bench and STAMP write it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from parfocal.dataset.cohort_slide import PARTS, Part
from parfocal.dataset.errors import CohortError
from parfocal.dataset.foreign.names import Names, listed, stem_of
from parfocal.dataset.foreign.source import INDEX_NAMES, Sources, SourceTable
from parfocal.dataset.spelling import is_missing

YES, NO = ("true", "1"), ("false", "0", "")


@dataclass(frozen=True)
class Member:
    """A slide that splits are looked up for.

    Args:
        name: its name in the table.
        slide_id: its id.
        patient: its patient.
        parts: parts in the columns of folds of its own table.
    """

    name: str
    slide_id: str
    patient: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fold:
    """The parts of one fold.

    Args:
        source: where they are from, for messages.
        parts: part of each slide, by id.
    """

    source: str
    parts: dict[str, Part]


def read_folds(
    sources: Sources, members: Sequence[Member], columns: Sequence[str]
) -> tuple[list[Fold], list[str]]:
    """Return the folds that the tables give, and notes on what was left out.

    Args:
        sources: the tables.
        members: the slides of the cohort.
        columns: columns of folds in the table of slides.

    Raises:
        CohortError: a slide or a patient is in two parts of a fold, or there are splits of two
            kinds.
    """
    kinds = [bool(columns), bool(sources.splits), sources.folds is not None]
    if sum(kinds) > 1:
        raise CohortError(
            "there are splits of several kinds (columns fold_0..., splits_0.csv, splits.json); "
            "give one of them, or --no-splits."
        )
    notes: list[str] = []
    named: list[tuple[str, list[tuple[str, str]]]] = []  # source; names and parts
    if columns:
        named = [
            (column, [(each.name, each.parts[i]) for each in members])
            for i, column in enumerate(columns)
        ]
    elif sources.folds is not None:
        path, folds = sources.folds
        named = [
            (f"split {n} of {path.name}", [(name, part) for part in fold for name in fold[part]])
            for n, fold in enumerate(folds)
        ]
    else:
        named = [(table.name, list(_listed_parts(table))) for table in sources.splits]
    by_name = _slides_by_name(members)
    names = Names(by_name)
    unknown: list[str] = []
    found = [_fold(source, pairs, by_name, names, unknown) for source, pairs in named]
    for fold in found:
        _refuse_split_patients(fold, members)
    if unknown:
        count = len(set(unknown))
        notes.append(f"{count} names of the splits are not in the cohort: {listed(unknown)}")
    return found, notes + names.notes("names of the splits")


def _listed_parts(table: SourceTable) -> Iterator[tuple[str, str]]:
    """Yield names and parts of a table of CLAM, with names under the parts or with yes and no."""
    parts = [name for name in PARTS if name in table.columns]
    others = [name for name in table.columns if name not in parts]
    cells = {row[part].lower() for _, row in table.rows for part in parts}
    if not others or not cells <= {*YES, *NO} or not cells & {*YES}:
        for part in parts:
            yield from ((row[part], part) for _, row in table.rows if not is_missing(row[part]))
        return
    for number, row in table.rows:
        named = [part for part in parts if row[part].lower() in YES]
        if len(named) > 1:
            raise CohortError(
                f"{table.name} row {number}: {row[others[0]]!r} is in {' and '.join(named)}; keep "
                "a slide in one part."
            )
        yield from ((row[others[0]], part) for part in named)


def _fold(
    source: str,
    pairs: Sequence[tuple[str, str]],
    by_name: Mapping[str, list[str]],
    names: Names,
    unknown: list[str],
) -> Fold:
    """Return the parts of a fold by slide; a name may be that of a slide or of a patient.

    Args:
        source: where the fold is from.
        pairs: names and parts.
        by_name: slides that each name stands for.
        names: the same names, to look up others that are written in another way.
        unknown: gets the names that are not found.
    """
    parts: dict[str, Part] = {}
    for name, text in pairs:
        if is_missing(text):
            continue
        part = next((each for each in PARTS if each == text.lower()), None)
        if part is None:
            raise CohortError(
                f"{source}: {name!r} is in the part {text!r}; use {', '.join(PARTS)}."
            )
        found = names.find(name) or names.find(stem_of(name))
        if found is None:
            unknown.append(name)
            continue
        for slide_id in by_name[found]:
            if parts.setdefault(slide_id, part) != part:
                raise CohortError(
                    f"{source}: {slide_id!r} is in both {parts[slide_id]} and {part}; keep a slide "
                    "in one part, or use --no-splits to draw the parts by patient."
                )
    if pairs and not parts:
        raise CohortError(
            f"{source}: none of its names is a slide or patient of the table "
            f"({listed(name for name, _ in pairs)}); give the table that belongs to the splits."
        )
    return Fold(source, parts)


def _slides_by_name(members: Sequence[Member]) -> Mapping[str, list[str]]:
    """Return the ids of the slides that a name stands for; a patient stands for all of its own."""
    by_name: dict[str, list[str]] = {}
    for member in members:
        by_name.setdefault(member.patient, []).append(member.slide_id)
    for member in members:
        by_name[member.slide_id] = [member.slide_id]
        by_name[member.name] = [member.slide_id]
    return {name: ids for name, ids in by_name.items() if name not in INDEX_NAMES}


def _refuse_split_patients(fold: Fold, members: Sequence[Member]) -> None:
    part_of: dict[str, tuple[Part, str]] = {}
    for member in members:
        part = fold.parts.get(member.slide_id)
        if part is None:
            continue
        first, other = part_of.setdefault(member.patient, (part, member.slide_id))
        if first != part:
            raise CohortError(
                f"{fold.source}: patient {member.patient!r} is in both {first} ({other}) and "
                f"{part} ({member.slide_id}), so a model would be tested on a patient that it was "
                "trained on. Correct the splits, or use --no-splits to draw parts by patient."
            )
