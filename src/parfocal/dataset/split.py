"""Parts of a cohort, by patient: what a model learns from, is chosen by, and is tested on."""

import csv
import io
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from parfocal.dataset.cohort import PARTS, Cohort, CohortError, CohortSlide, Part

logger = logging.getLogger(__name__)

COLUMNS = ("slide_id", "patient_id", "label", "split")


@dataclass(frozen=True)
class Split:
    """Slides to learn from, to choose the epoch by, and to test on; no patient is in two."""

    train: tuple[CohortSlide, ...]
    val: tuple[CohortSlide, ...]
    test: tuple[CohortSlide, ...]

    def part(self, name: Part) -> tuple[CohortSlide, ...]:
        """Give the slides of a part."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


@dataclass(frozen=True)
class SplitRow:
    """Where a slide stood in a run."""

    slide_id: str
    patient_id: str
    label: str
    split: Part


@dataclass(frozen=True)
class Patient:
    """A patient's slides, and the class and stratum most of them have."""

    slides: tuple[CohortSlide, ...]
    label: str
    stratum: str


def split_cohort(
    cohort: Cohort, *, val_fraction: float = 0.15, test_fraction: float = 0.15, seed: int = 0
) -> Split:
    """Divide a cohort as its CSV says, or else by patient, every class in proportion.

    Where the CSV names train and test slides only, validation slides are cut from train.

    Args:
        cohort: the slides.
        val_fraction: share of each class's patients to choose the epoch by, at least one.
        test_fraction: likewise to test on; 0 for none.
        seed: of the shuffle.

    Raises:
        CohortError: a class has too few patients, a patient is in two parts, or nothing is
            left to learn from.
    """
    if cohort.slides[0].split is not None:
        named = {
            part: tuple(slide for slide in cohort.slides if slide.split == part) for part in PARTS
        }
        train, val, test = named["train"], named["val"], named["test"]
    else:
        train, val, test = cohort.slides, (), ()
        if test_fraction > 0:
            # Three parts are needed of every class, so one patient must be left for validation.
            test, train = _cut(cohort, train, test_fraction, seed, leave=2)
    if not train:
        raise CohortError(f"{cohort.source.name}: no row has split train; nothing to learn from.")
    if not val:
        val, train = _cut(cohort, train, val_fraction, seed, leave=1)
    return _checked(cohort, Split(train, val, test))


def fold_cohort(
    cohort: Cohort, folds: int | None = None, *, val_fraction: float = 0.15, seed: int = 0
) -> tuple[Split, ...]:
    """Divide a cohort so that every slide is tested once: by the CSV's folds, or else afresh.

    Args:
        cohort: the slides.
        folds: how many; None for as many as the CSV has.
        val_fraction: share of the other folds' patients to choose the epoch by.
        seed: of the shuffle.

    Raises:
        CohortError: a class has too few patients, or the CSV has another number of folds.
    """
    held_out = _held_out(cohort, folds, seed)
    splits = []
    for test in held_out:
        tested = {slide.slide_id for slide in test}
        rest = tuple(slide for slide in cohort.slides if slide.slide_id not in tested)
        val, train = _cut(cohort, rest, val_fraction, seed, leave=1)
        splits.append(_checked(cohort, Split(train, val, test)))
    return tuple(splits)


def split_table(split: Split) -> str:
    """Write as CSV which slide stands where, one row a slide."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for part in PARTS:
        for slide in split.part(part):
            writer.writerow((slide.slide_id, slide.patient_id, slide.label, part))
    return text.getvalue()


def read_split(path: Path) -> tuple[SplitRow, ...]:
    """Read the split.csv of a run."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                SplitRow(row["slide_id"], row["patient_id"], row["label"], _part(row["split"]))
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise CohortError(f"{path}: not the split of a run ({error}); train again.") from None
    return tuple(rows)


def _part(text: str) -> Part:
    return PARTS[PARTS.index(text)]


def _held_out(cohort: Cohort, folds: int | None, seed: int) -> list[tuple[CohortSlide, ...]]:
    """Give the test slides of each fold."""
    given = sorted({slide.fold for slide in cohort.slides if slide.fold is not None})
    if given:
        if len(given) != (folds or len(given)) or len(given) < 2:
            raise CohortError(
                f"{cohort.source.name}: its fold column has {len(given)} folds, not "
                f"{folds or 'two or more'}; correct the column or leave --folds out."
            )
        return [tuple(slide for slide in cohort.slides if slide.fold == fold) for fold in given]
    if folds is None or folds < 2:
        raise CohortError(f"{cohort.source.name}: {folds} folds asked for; give 2 or more.")
    held_out: list[list[CohortSlide]] = [[] for _ in range(folds)]
    dealt = 0
    for label, patients in _by_label(cohort.slides, seed).items():
        if len(patients) < folds:
            raise _too_few(cohort, label, len(patients), f"{folds} folds", folds)
        for patient in patients:  # dealt like cards, so every stratum spreads over the folds
            held_out[dealt % folds].extend(patient.slides)
            dealt += 1
    return [tuple(slides) for slides in held_out]


def _cut(
    cohort: Cohort, slides: Sequence[CohortSlide], fraction: float, seed: int, *, leave: int
) -> tuple[tuple[CohortSlide, ...], tuple[CohortSlide, ...]]:
    """Part a share of each class's patients from the rest, leaving at least `leave`."""
    taken: set[str] = set()
    for label, patients in _by_label(slides, seed).items():
        count = max(1, round(fraction * len(patients)))
        if len(patients) - count < leave:
            count = len(patients) - leave
        if count < 1:
            parts = "train, val and test" if leave == 2 else "train and val"
            raise _too_few(cohort, label, len(patients), parts, leave + 1)
        # Evenly spaced in an order sorted by stratum: each stratum gives its share.
        for pick in range(count):
            position = int((pick + 0.5) * len(patients) / count)
            taken.update(slide.slide_id for slide in patients[position].slides)
    return (
        tuple(slide for slide in slides if slide.slide_id in taken),
        tuple(slide for slide in slides if slide.slide_id not in taken),
    )


def _by_label(slides: Iterable[CohortSlide], seed: int) -> dict[str, list[Patient]]:
    """Group patients by class, shuffled, then ordered by stratum."""
    groups: dict[str, list[CohortSlide]] = defaultdict(list)
    for slide in slides:
        groups[slide.patient_id].append(slide)
    by_label: dict[str, list[Patient]] = defaultdict(list)
    for _, group in sorted(groups.items()):
        patient = Patient(
            tuple(group),
            label=_most_common(slide.label for slide in group),
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
    """Give the most frequent value; of several, the first in alphabetical order."""
    return min(Counter(values).items(), key=lambda item: (-item[1], item[0]))[0]


def _too_few(cohort: Cohort, label: str, found: int, parts: str, needed: int) -> CohortError:
    return CohortError(
        f"{cohort.source.name}: class {label!r} has {found} patient{'s' * (found != 1)} to divide, "
        f"and {parts} need at least {needed}; add slides, or name the parts in a split or fold "
        "column."
    )


def _checked(cohort: Cohort, split: Split) -> Split:
    """Refuse a split that leaks a patient or has nothing to learn a class from."""
    home: dict[str, Part] = {}
    for part in PARTS:
        for slide in split.part(part):
            if home.setdefault(slide.patient_id, part) != part:
                raise CohortError(
                    f"{cohort.source.name} row {slide.row}: patient {slide.patient_id!r} is in "
                    f"both {home[slide.patient_id]} and {part}; keep a patient in one part."
                )
    for part in ("train", "val"):
        missing = set(cohort.labels) - {slide.label for slide in split.part(part)}
        if missing and part == "train":
            raise CohortError(
                f"{cohort.source.name}: no train slide of class {min(missing)!r}; add some, or "
                "leave the class out."
            )
        if missing:
            logger.warning("no validation slide of class %s", ", ".join(sorted(missing)))
    return split
