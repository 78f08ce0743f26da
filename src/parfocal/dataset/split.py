"""Split a cohort by patient into training, validation and test slides."""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from parfocal.dataset.cohort import PARTS, Cohort, CohortError, CohortSlide, Part
from parfocal.printable import counted

COLUMNS = ("slide_id", "patient_id", "label", "split")
SPLIT_FILE, FAILED_FILE = "split.csv", "failed.csv"  # of a run


@dataclass(frozen=True)
class Split:
    """Slides of the three parts; no patient is in two of them.

    Args:
        train: slides to train on.
        val: slides to select the epoch with.
        test: slides to test on.
    """

    train: tuple[CohortSlide, ...]
    val: tuple[CohortSlide, ...]
    test: tuple[CohortSlide, ...]

    def part(self, name: Part) -> tuple[CohortSlide, ...]:
        """Return the slides of a part."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


@dataclass(frozen=True)
class SplitRow:
    """One row of the split.csv of a run: the part of a slide."""

    slide_id: str
    patient_id: str
    label: str
    split: Part


@dataclass(frozen=True)
class Patient:
    """The slides of a patient, with their most common label and stratum."""

    slides: tuple[CohortSlide, ...]
    label: str
    stratum: str


def split_cohort(
    cohort: Cohort, *, val_fraction: float = 0.15, test_fraction: float = 0.15, seed: int = 0
) -> Split:
    """Split a cohort by its split column, or else by patient, stratified by class and stratum.

    Where the split column has no validation slides, they are drawn from the training slides.

    Args:
        cohort: the slides.
        val_fraction: share of the patients of each class for validation; at least one patient.
        test_fraction: share of the patients of each class for testing, at least one patient; 0 for
            no test part.
        seed: seed of the shuffle.

    Raises:
        CohortError: a class has too few patients, a patient is in two parts, or there are no
            training slides.
    """
    if cohort.slides[0].split is not None:
        named = {
            part: tuple(slide for slide in cohort.slides if slide.split == part) for part in PARTS
        }
        train, val, test = named["train"], named["val"], named["test"]
    else:
        train, val, test = cohort.slides, (), ()
        if test_fraction > 0:
            # Leave at least one patient of every class for each of the other two parts.
            test, train = _draw(cohort, train, test_fraction, seed, leave=2)
    if not train:
        raise CohortError(
            f"{cohort.source.name}: no row has split train; a model needs training slides."
        )
    if not val:
        val, train = _draw(cohort, train, val_fraction, seed, leave=1)
    return _check_split(cohort, Split(train, val, test))


def fold_cohort(
    cohort: Cohort, folds: int | None = None, *, val_fraction: float = 0.15, seed: int = 0
) -> tuple[Split, ...]:
    """Split a cohort for cross-validation, by its fold column or columns, or else by patient.

    Every slide is a test slide in one fold, unless the table has a column of parts for each fold
    (`CohortSlide.fold_parts`). These are used as they are; in a fold without validation slides,
    they are drawn from its training slides.

    Args:
        cohort: the slides.
        folds: number of folds; None for the number in the table.
        val_fraction: share of the patients of the other folds for validation.
        seed: seed of the shuffle.

    Raises:
        CohortError: a class has too few patients, the table has another number of folds, or a
            patient is in two parts of a fold.
    """
    if cohort.slides[0].fold_parts:
        return _given_folds(cohort, folds, val_fraction, seed)
    splits = []
    for test in _test_folds(cohort, folds, seed):
        test_ids = {slide.slide_id for slide in test}
        rest = tuple(slide for slide in cohort.slides if slide.slide_id not in test_ids)
        val, train = _draw(cohort, rest, val_fraction, seed, leave=1)
        splits.append(_check_split(cohort, Split(train, val, test)))
    return tuple(splits)


def split_to_csv(split: Split) -> str:
    """Return the text of split.csv, one row per slide."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for part in PARTS:
        for slide in split.part(part):
            writer.writerow((slide.slide_id, slide.patient_id, slide.label, part))
    return text.getvalue()


def read_split(path: Path) -> tuple[SplitRow, ...]:
    """Read the split.csv of a run.

    Raises:
        CohortError: the file cannot be read or is not a split.csv.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                SplitRow(row["slide_id"], row["patient_id"], row["label"], _part(row["split"]))
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise CohortError(f"{path}: not the split.csv of a run ({error}); train again.") from None
    return tuple(rows)


def has_test_slides(run: Path) -> bool:
    """Return whether a run, or a fold of it, has test slides.

    Args:
        run: folder of a finished run.

    Raises:
        CohortError: split.csv cannot be read.
    """
    splits = [run / SPLIT_FILE, *sorted(run.glob(f"fold-*/{SPLIT_FILE}"))]
    rows = [row for path in splits if path.exists() for row in read_split(path)]
    return any(row.split == "test" for row in rows)


def read_left_out(run: Path) -> dict[str, str] | None:
    """Return the reason of each slide that a run left out before its split, by slide id.

    Args:
        run: folder of the run.

    Returns:
        None if no run was started in the folder.

    Raises:
        CohortError: split.csv cannot be read.
    """
    if not (run / SPLIT_FILE).exists():
        return None
    used = {row.slide_id for row in read_split(run / SPLIT_FILE)}
    failed = run / FAILED_FILE
    if not failed.exists():  # a run of an earlier version
        return {}
    with failed.open(newline="", encoding="utf-8") as file:
        reasons = {row["slide_id"]: row["reason"] for row in csv.DictReader(file)}
    return {slide_id: reason for slide_id, reason in reasons.items() if slide_id not in used}


def _part(text: str) -> Part:
    return PARTS[PARTS.index(text)]


def _test_folds(cohort: Cohort, folds: int | None, seed: int) -> list[tuple[CohortSlide, ...]]:
    """Return the test slides of each fold."""
    numbers = sorted({slide.fold for slide in cohort.slides if slide.fold is not None})
    if numbers:
        if len(numbers) != (folds or len(numbers)) or len(numbers) < 2:
            raise CohortError(
                f"{cohort.source.name}: its fold column has {len(numbers)} folds, expected "
                f"{folds or 'two or more'}; correct the column or omit --folds."
            )
        return [tuple(slide for slide in cohort.slides if slide.fold == fold) for fold in numbers]
    if folds is None or folds < 2:
        raise CohortError(f"{cohort.source.name}: {folds} folds; use 2 or more.")
    test_folds: list[list[CohortSlide]] = [[] for _ in range(folds)]
    count = 0
    for label, patients in _by_label(cohort.slides, seed).items():
        if len(patients) < folds:
            raise _too_few(cohort, cohort.slides, label, f"{folds} folds", folds)
        # Patients are sorted by stratum, so taking turns spreads every stratum over the folds.
        for patient in patients:
            test_folds[count % folds].extend(patient.slides)
            count += 1
    return [tuple(slides) for slides in test_folds]


def _given_folds(
    cohort: Cohort, folds: int | None, val_fraction: float, seed: int
) -> tuple[Split, ...]:
    """Return the splits that the table assigns, one for each column of a fold."""
    found = len(cohort.slides[0].fold_parts)
    if folds not in (None, found):
        raise CohortError(
            f"{cohort.source.name}: it has the parts of {found} fold{'s' * (found != 1)}, expected "
            f"{folds}; omit --folds, or remove columns."
        )
    splits = []
    for fold in range(found):
        named = {
            part: tuple(slide for slide in cohort.slides if slide.fold_parts[fold] == part)
            for part in PARTS
        }
        where = f"fold {fold} of {cohort.source.name}"
        train, val = named["train"], named["val"]
        if not train:
            raise CohortError(f"{where}: no slide is in train; a model needs training slides.")
        if not val:
            val, train = _draw(cohort, train, val_fraction, seed, leave=1)
        splits.append(_check_split(cohort, Split(train, val, named["test"]), where))
    return tuple(splits)


def _draw(
    cohort: Cohort, slides: Sequence[CohortSlide], fraction: float, seed: int, *, leave: int
) -> tuple[tuple[CohortSlide, ...], tuple[CohortSlide, ...]]:
    """Draw a share of the patients of each class, leaving at least `leave`; return both groups."""
    taken: set[str] = set()
    for label, patients in _by_label(slides, seed).items():
        count = max(1, round(fraction * len(patients)))
        if len(patients) - count < leave:
            count = len(patients) - leave
        if count < 1:
            parts = "train, val and test" if leave == 2 else "train and val"
            raise _too_few(cohort, slides, label, parts, leave + 1)
        # Patients are sorted by stratum, so evenly spaced picks draw the same share of each.
        for pick in range(count):
            position = int((pick + 0.5) * len(patients) / count)
            taken.update(slide.slide_id for slide in patients[position].slides)
    return (
        tuple(slide for slide in slides if slide.slide_id in taken),
        tuple(slide for slide in slides if slide.slide_id not in taken),
    )


def _by_label(slides: Iterable[CohortSlide], seed: int) -> dict[str, list[Patient]]:
    """Group patients by class, shuffle them, then sort them by stratum."""
    groups: dict[str, list[CohortSlide]] = defaultdict(list)
    for slide in slides:
        groups[slide.patient_id].append(slide)
    by_label: dict[str, list[Patient]] = defaultdict(list)
    for _, group in sorted(groups.items()):
        patient = Patient(
            tuple(group),
            label=_most_common(slide.split_group for slide in group),
            stratum=_most_common(slide.stratum or "" for slide in group),
        )
        by_label[patient.label].append(patient)
    generator = torch.Generator().manual_seed(seed)
    shuffled = {}
    for label, patients in sorted(by_label.items()):
        order = torch.randperm(len(patients), generator=generator).tolist()
        shuffled[label] = sorted(
            (patients[position] for position in order), key=lambda patient: patient.stratum
        )
    return shuffled


def _most_common(values: Iterable[str]) -> str:
    """Return the most frequent value; in case of a tie, the first in alphabetical order."""
    counts = Counter(values)
    if len(counts) == 1:  # almost always, and much faster with a million patients
        return next(iter(counts))
    return min(counts.items(), key=lambda item: (-item[1], item[0]))[0]


def _too_few(
    cohort: Cohort, slides: Iterable[CohortSlide], label: str, parts: str, needed: int
) -> CohortError:
    """Return the error for a class of too few patients.

    Args:
        cohort: the cohort.
        slides: the slides of the cohort that were to be divided.
        label: the class.
        parts: what the slides were to be divided into.
        needed: number of patients that the parts need.
    """
    noun = "class" if cohort.labels else "group"
    found = len(_by_label(slides, seed=0)[label])
    having = len({slide.patient_id for slide in slides if slide.split_group == label})
    mixed = f" ({having} have slides of it, but each counts once: in the {noun} of most slides)"
    return CohortError(
        f"{cohort.source.name}: {noun} {label!r} has {counted(found, 'patient')}"
        f"{mixed if having > found else ''}, and {parts} need at least {needed}; add slides, or "
        "assign the parts in a split or fold column."
    )


def _check_split(cohort: Cohort, split: Split, where: str | None = None) -> Split:
    """Return the split; raise if a patient is in two parts or a class has no training slides.

    Args:
        cohort: the slides.
        split: the split.
        where: name of the split, for messages; None for the name of the table.
    """
    where = where or cohort.source.name
    part_of: dict[str, Part] = {}
    for part in PARTS:
        for slide in split.part(part):
            if part_of.setdefault(slide.patient_id, part) != part:
                raise CohortError(
                    f"{where} row {slide.row}: patient {slide.patient_id!r} is in both "
                    f"{part_of[slide.patient_id]} and {part}; keep a patient in one part."
                )
    missing = set(cohort.labels) - {slide.label for slide in split.train}
    if missing:
        raise _untrained_class(where, split, min(missing))
    return split


def _untrained_class(where: str, split: Split, label: str) -> CohortError:
    """Return the error for a class without training slides, which a model cannot learn."""
    counts = {part: sum(s.label == label for s in split.part(part)) for part in ("val", "test")}
    others = " and ".join(f"{count} in {part}" for part, count in counts.items() if count)
    return CohortError(
        f"{where}: no training slide of class {label!r}{f' ({others})' if others else ''}; move "
        "some of its patients to train, or remove the class."
    )
