"""What a viewer has to show: predictions, their slides, and the truth where it is known.

Everything is found once, at the start. A page asks for a slide or a prediction by its key, which
is looked up here; what is not listed cannot be asked for.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from parfocal.dataset.cohort import read_cohort
from parfocal.dataset.split import read_split
from parfocal.explain.read_record import (
    RecordError,
    looks_like_prediction,
    read_json,
    read_prediction,
)
from parfocal.explain.record import PredictionRecord
from parfocal.slide.slide import open_slide

KEY_DIGITS = 12


class LibraryError(Exception):
    """What cannot be shown; the message says what was found, and what to do."""


@dataclass(frozen=True)
class PredictionSummary:
    """A prediction as the list shows it; its regions are read again when it is opened."""

    key: str
    path: Path
    model: str
    label: str
    probabilities: Mapping[str, float]
    patches: int
    share_patches: float | None
    seconds: float
    bill: str


@dataclass(frozen=True)
class Truth:
    """What is known of a slide from elsewhere than a prediction."""

    label: str | None = None
    outlines: Path | None = None
    path: Path | None = None


@dataclass(frozen=True)
class ListedSlide:
    """A slide, and what was said of it.

    Args:
        key: what a page calls it.
        id: its name.
        fingerprint: of the file that was looked at.
        size: width and height in level-0 pixels.
        mpp: microns per level-0 pixel.
        given_mpp: the same, where the file itself does not say it.
        path: the file; None where it is not to be found.
        problem: why its pixels cannot be shown.
        truth: its label and its lesions.
        predictions: in the order found.
    """

    key: str
    id: str
    fingerprint: str
    size: tuple[int, int]
    mpp: float
    given_mpp: float | None
    path: Path | None
    problem: str | None = None
    truth: Truth = Truth()
    predictions: tuple[PredictionSummary, ...] = ()


@dataclass
class Library:
    """All slides by key, and the files that could not be used, with the reason."""

    slides: dict[str, ListedSlide] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, slide: ListedSlide) -> None:
        """Put in a slide, or join its predictions to those of the same one."""
        known = self.slides.get(slide.key)
        if known is not None:
            slide = replace(known, predictions=known.predictions + slide.predictions)
        self.slides[slide.key] = slide


def gather(
    paths: Sequence[Path],
    *,
    cohort: Path | None = None,
    moved_to: Sequence[Path] = (),
    mpp: float | None = None,
) -> Library:
    """Find what there is to show, as `search`; nothing is an error.

    Raises:
        LibraryError: as of `search`, or there is nothing.
        CohortError: a table has an error.
    """
    library = search(paths, cohort=cohort, moved_to=moved_to, mpp=mpp)
    if not library.slides:
        raise _nothing(paths, library.problems)
    return library


def search(
    paths: Sequence[Path],
    *,
    cohort: Path | None = None,
    moved_to: Sequence[Path] = (),
    mpp: float | None = None,
) -> Library:
    """Find predictions and slides.

    Args:
        paths: predictions, folders of them (or of such folders), and slide files. Labels are
            taken from the cohorts and runs that lie in the folders.
        cohort: a table with the slides' labels and outlines.
        moved_to: folders to look for slide files in that are no longer where they were.
        mpp: microns per level-0 pixel, for slide files that do not say.

    Raises:
        LibraryError: a path is not there, or two tables give a slide different labels.
        CohortError: a table has an error.
    """
    library = Library()
    known = _truths(paths, cohort)
    names = _by_name(moved_to)
    for path in paths:
        if not path.exists():
            raise LibraryError(f"{path}: there is no such file or folder; check the path.")
        if _is_slide(path):
            library.add(_plain(path, mpp, known))
            continue
        for file in _predictions(path, library.problems):
            try:
                record = read_prediction(file)
            except RecordError as error:
                library.problems.append(str(error))
            else:
                library.add(_shown(file, record, known, names))
    return library


def key_of(*parts: str) -> str:
    """Name something for a URL: the same parts give the same key."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:KEY_DIGITS]


def within(path: Path, pattern: str) -> list[Path]:
    """List files of a folder, or where it has none those of the folders in it; a file is itself."""
    if path.is_file():
        return [path]
    return sorted(path.glob(pattern)) or sorted(path.glob(f"*/{pattern}"))


def _is_slide(path: Path) -> bool:
    if path.is_dir():
        return any(file.suffix.lower() == ".dcm" for file in path.iterdir())
    return path.suffix.lower() != ".json"


def _predictions(path: Path, problems: list[str]) -> Iterator[Path]:
    for file in within(path, "*.json"):
        try:
            if path.is_file() or looks_like_prediction(read_json(file)):
                yield file
        except RecordError as error:
            problems.append(str(error))


def _shown(
    file: Path, record: PredictionRecord, known: Mapping[str, Truth], names: Mapping[str, Path]
) -> ListedSlide:
    slide = record.slide
    truth = known.get(slide.id, Truth())
    path = _find(slide.path, truth, names, file)
    moved = None
    if path is None:
        moved = (
            f"{slide.id}: the slide is no longer at {slide.path}; say where it is with --slides "
            "FOLDER."
        )
    listed = PredictionSummary(
        key=key_of(str(file.resolve())),
        path=file,
        model=f"{record.model.name}, {file.parent.name or file.parent.resolve().name}",
        label=record.label,
        probabilities=record.probabilities,
        patches=sum(region.order is not None for region in record.regions),
        share_patches=record.cost.share_patches,
        seconds=record.cost.seconds["total"],
        bill=record.bill,
    )
    return ListedSlide(
        key=key_of(slide.id, slide.fingerprint),
        id=slide.id,
        fingerprint=slide.fingerprint,
        size=slide.size,
        mpp=slide.mpp,
        given_mpp=slide.mpp if slide.mpp_source == "given" else None,
        path=path,
        problem=moved,
        truth=truth,
        predictions=(listed,),
    )


def _plain(path: Path, mpp: float | None, known: Mapping[str, Truth]) -> ListedSlide:
    with open_slide(path, mpp=mpp) as slide:
        return ListedSlide(
            key=key_of(slide.id, slide.fingerprint),
            id=slide.id,
            fingerprint=slide.fingerprint,
            size=slide.size,
            mpp=slide.mpp,
            given_mpp=mpp,
            path=path,
            truth=known.get(slide.id, Truth()),
        )


def _find(
    recorded: str | None, truth: Truth, names: Mapping[str, Path], prediction: Path
) -> Path | None:
    """Give the first place where a slide's file may be; its fingerprint is checked on opening."""
    places: Iterable[Path | None] = [truth.path]
    if recorded is not None:
        path = Path(recorded)
        places = chain([path, truth.path, names.get(path.name)], _moved_with(prediction, path))
    return next((place for place in places if place is not None and place.exists()), None)


def _moved_with(prediction: Path, recorded: Path) -> Iterator[Path]:
    """Give where a slide may be that was moved in one folder with its prediction.

    Some end of its path is what it was, below a folder around the prediction.
    """
    parts = recorded.parts[recorded.is_absolute() :]
    for first in range(len(parts)):
        for folder in prediction.resolve().parents:
            yield folder.joinpath(*parts[first:])


def _by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """List what lies in folders, however deep, by name."""
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise LibraryError(f"{folder}: no such folder; --slides names one that holds slides.")
        for path in sorted(folder.rglob("*")):
            found.setdefault(path.name, path)
    return found


def _truths(paths: Sequence[Path], cohort: Path | None) -> dict[str, Truth]:
    """Collect what cohorts, and the splits of runs, say of slides by their id."""
    tables = [cohort] if cohort else []
    tables += [file for path in paths if path.is_dir() for file in within(path, "cohort.csv")]
    splits = [file for path in paths if path.is_dir() for file in within(path, "split.csv")]
    known: dict[str, tuple[Truth, Path]] = {}
    for table in tables:
        for slide in read_cohort(table).slides:
            _agree(known, slide.slide_id, Truth(slide.label, slide.outlines, slide.path), table)
    for split in splits:
        for row in read_split(split):
            _agree(known, row.slide_id, Truth(row.label), split)
    return {slide_id: truth for slide_id, (truth, _) in known.items()}


def _agree(known: dict[str, tuple[Truth, Path]], slide_id: str, truth: Truth, table: Path) -> None:
    first, where = known.setdefault(slide_id, (truth, table))
    if first.label != truth.label:
        raise LibraryError(
            f"{slide_id}: labeled {first.label!r} in {where} and {truth.label!r} in {table}; "
            "correct one, or view their predictions apart."
        )


def _nothing(paths: Sequence[Path], problems: Sequence[str]) -> LibraryError:
    if problems:
        return LibraryError(problems[0])
    where = ", ".join(str(path) for path in paths)
    return LibraryError(
        f"{where}: no predictions here or in the folders within; write some with `parfocal predict "
        "RUN SLIDE... --out DIR`, then view DIR. A slide file can be viewed without."
    )
