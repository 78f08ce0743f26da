"""Find the predictions to show, with their slide files and, where known, the true labels.

The library is built once. The viewer looks up slides and predictions in it by key, so nothing that
is not in the library can be requested.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from parfocal.explain.failed_slides import FailedPrediction, read_failed
from parfocal.explain.read_record import (
    looks_like_prediction,
    read_json,
    read_prediction,
)
from parfocal.explain.record import PredictionRecord
from parfocal.explain.truths import LibraryError, Truth, files_in, read_truths, require_file
from parfocal.files import is_folder, path_exists
from parfocal.printable import printable
from parfocal.slide.failure import describe_failure, shorten
from parfocal.slide.listing import slides_in
from parfocal.slide.slide import open_slide
from parfocal.slide.sources.url import RemoteAccess, SlidePath, SlideUrl, is_url

KEY_DIGITS = 12

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionSummary:
    """What the list of slides shows of a prediction; its regions are read again when it is opened.

    Args:
        key: identifier in URLs.
        path: the JSON file.
        model: name of the model and of the folder.
        label: predicted class.
        probabilities: probability of each class, by label.
        patches: number of visited patches.
        share_patches: visited patches as a share of the exhaustive number.
        seconds: wall-clock time of the prediction.
        bill: cost in one line.
        patient: the patient that was predicted; None for the prediction of a slide.
        share: part of the patient's attention that lies on the slide; None for the
            prediction of a slide.
    """

    key: str
    path: Path
    model: str
    label: str
    probabilities: Mapping[str, float]
    patches: int
    share_patches: float | None
    seconds: float
    bill: str
    patient: str | None = None
    share: float | None = None


@dataclass(frozen=True)
class ListedSlide:
    """A slide with its predictions.

    Args:
        key: identifier in URLs.
        id: name of the slide.
        fingerprint: hash of the file that was predicted.
        size: width and height in level-0 pixels.
        mpp: µm per level-0 pixel.
        given_mpp: `mpp` if the file does not record it; None if it does.
        path: the slide file; None if it was not found.
        problem: why the slide cannot be shown; None if it can.
        truth: true label and outlines.
        predictions: predictions of the slide, in the order found.
    """

    key: str
    id: str
    fingerprint: str
    size: tuple[int, int]
    mpp: float
    given_mpp: float | None
    path: SlidePath | None
    problem: str | None = None
    truth: Truth = field(default_factory=Truth)
    predictions: tuple[PredictionSummary, ...] = ()


@dataclass
class Library:
    """The slides to show.

    Args:
        slides: slides by key.
        failed: slides that could not be predicted.
        problems: messages about files that could not be read.
    """

    slides: dict[str, ListedSlide] = field(default_factory=dict)
    failed: list[FailedPrediction] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def siblings(
        self, slide: ListedSlide, prediction: PredictionSummary
    ) -> list[tuple[ListedSlide, PredictionSummary]]:
        """Return the other slides of a patient, with their parts of the same prediction.

        Args:
            slide: one of the slides.
            prediction: its prediction.
        """
        if prediction.patient is None:
            return []
        return [
            (other, each)
            for other in self.slides.values()
            for each in other.predictions
            if other.key != slide.key
            and each.patient == prediction.patient
            and each.path.parent == prediction.path.parent
        ]

    def add(self, slide: ListedSlide) -> None:
        """Add a slide; if it is there already, add its predictions to it."""
        listed = self.slides.get(slide.key)
        if listed is not None:
            slide = replace(listed, predictions=listed.predictions + slide.predictions)
        self.slides[slide.key] = slide


def load_library(
    paths: Sequence[SlidePath],
    *,
    cohort: Path | None = None,
    moved_to: Sequence[Path] = (),
    mpp: float | None = None,
    access: RemoteAccess | None = None,
) -> Library:
    """Find predictions and slides, and raise an error if there are none, and no failed slides.

    Args:
        paths: see `find_library`.
        cohort: see `find_library`.
        moved_to: see `find_library`.
        mpp: see `find_library`.
        access: see `find_library`.

    Raises:
        LibraryError: nothing was found, or tables disagree on a label.
        CohortError: the cohort table is invalid.
    """
    library = find_library(paths, cohort=cohort, moved_to=moved_to, mpp=mpp, access=access)
    if not library.slides and not library.failed:
        raise _nothing_found(paths, library.problems)
    return library


def find_library(
    paths: Sequence[SlidePath],
    *,
    cohort: Path | None = None,
    moved_to: Sequence[Path] = (),
    mpp: float | None = None,
    access: RemoteAccess | None = None,
) -> Library:
    """Find predictions and slides; what cannot be read is in `problems`, and ends nothing.

    Args:
        paths: prediction JSON files, folders of them or of such folders, and slide files. Labels
            are read from the cohort tables and run splits in the folders.
        cohort: cohort table with labels and outlines of the slides.
        moved_to: folders in which to look for slide files that have moved since the prediction.
        mpp: µm per level-0 pixel, for slide files that do not record it.
        access: how remote slides are read that predictions name; None for the defaults.

    Raises:
        LibraryError: tables disagree on the label of a slide.
        CohortError: the cohort table is invalid.
    """
    library = Library()
    truths = read_truths(
        [path for path in paths if isinstance(path, Path)], cohort, library.problems
    )
    moved_files = _files_by_name(moved_to)
    for path in paths:
        with list_problem(path, library.problems):
            slides = _slides_of(path)
            for slide in slides:
                with list_problem(slide, library.problems):
                    library.add(_slide_alone(slide, mpp, truths))
            if slides or isinstance(path, SlideUrl):
                continue
            for file in files_in(path, "*.json"):
                with list_problem(file, library.problems):
                    if path == file or looks_like_prediction(read_json(file)):
                        record = read_prediction(file)
                        found = _slide_with_prediction(file, record, truths, moved_files, access)
                        library.add(found)
            for file in files_in(path, "predictions.csv") if is_folder(path) else ():
                with list_problem(file, library.problems):
                    require_file(file)
                    library.failed += read_failed(file)
    return library


@contextmanager
def list_problem(path: SlidePath, problems: list[str]) -> Iterator[None]:
    """Add a message to `problems` if a block that reads or shows a file fails, and continue.

    Args:
        path: the file; a file that has a message already gets no second one.
        problems: the messages.
    """
    try:
        yield
    except Exception as error:  # a file may hold anything
        logger.debug("%s", path, exc_info=error)
        name = printable(str(path))
        if not any(problem.startswith(name) for problem in problems):
            problems.append(shorten(_describe_problem(path, error)))


def _describe_problem(path: SlidePath, error: Exception) -> str:
    if type(error).__module__.startswith("parfocal"):
        message = str(error)
        return message if path.name in message else f"{path}: {message}"
    reason = f"it lacks {error}" if isinstance(error, KeyError) else describe_failure(error)
    return f"{path}: it cannot be shown ({reason}); write it again, or remove it."


def key_of(*parts: str) -> str:
    """Return a short hash of some strings, for use in URLs."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:KEY_DIGITS]


def _slides_of(path: SlidePath) -> list[SlidePath]:
    """Return the slides to show without a prediction: a slide file, or those in a folder.

    A folder of predictions has none, and neither has one of pictures.

    Raises:
        LibraryError: the path does not exist.
    """
    if isinstance(path, SlideUrl):
        return [path]
    if not path_exists(path) and not path.is_symlink():
        raise LibraryError(f"{path}: no such file or folder; check the path.")
    if is_folder(path):
        has_results = files_in(path, "*.json") or files_in(path, "predictions.csv")
        return [] if has_results else [*slides_in(path, pictures=False)]
    return [] if path.suffix.lower() == ".json" else [path]


def _slide_with_prediction(
    file: Path,
    record: PredictionRecord,
    truths: Mapping[str, Truth],
    moved_files: Mapping[str, Path],
    access: RemoteAccess | None,
) -> ListedSlide:
    slide = record.slide
    truth = truths.get(slide.id, Truth())
    path = _find_slide(slide.path, truth, moved_files, file, access)
    problem = None
    if path is None:
        problem = (
            f"{slide.id}: the slide is no longer at {printable(str(slide.path))}; name the folder "
            "it is in with --slides DIR."
        )
    summary = PredictionSummary(
        key=key_of(str(file.resolve())),
        path=file,
        model=printable(f"{record.model.name}, {file.parent.name or file.parent.resolve().name}"),
        label=record.label,
        probabilities=record.probabilities,
        patches=sum(region.visited for region in record.regions),
        share_patches=record.cost.share_patches,
        seconds=record.cost.seconds["total"],
        bill=record.bill,
        patient=None if record.patient is None else printable(record.patient.id),
        share=None if record.patient is None else record.patient.share,
    )
    return ListedSlide(
        key=key_of(slide.id, slide.fingerprint),
        id=slide.id,
        fingerprint=slide.fingerprint,
        size=slide.size,
        mpp=slide.mpp,
        given_mpp=slide.mpp if slide.mpp_source == "given" else None,
        path=path,
        problem=problem,
        truth=truth,
        predictions=(summary,),
    )


def _slide_alone(path: SlidePath, mpp: float | None, truths: Mapping[str, Truth]) -> ListedSlide:
    with open_slide(path, mpp=mpp, missing_tiles="background") as slide:
        return ListedSlide(
            key=key_of(slide.id, slide.fingerprint),
            id=slide.id,
            fingerprint=slide.fingerprint,
            size=slide.size,
            mpp=slide.mpp,
            given_mpp=mpp,
            path=path,
            truth=truths.get(slide.id, Truth()),
        )


def _find_slide(
    recorded: str | None,
    truth: Truth,
    moved_files: Mapping[str, Path],
    prediction: Path,
    access: RemoteAccess | None,
) -> SlidePath | None:
    """Return the first candidate that exists; its fingerprint is checked on opening.

    A URL of the cohort comes first, since the recorded one lacks credentials.
    """
    if isinstance(truth.path, SlideUrl):
        return truth.path
    candidates: Iterable[Path | None] = [truth.path]
    url = None
    if recorded is not None and is_url(recorded):
        url = SlideUrl(recorded, access or RemoteAccess())
        candidates = [truth.path, moved_files.get(url.name)]
    elif recorded is not None:
        path = Path(recorded)
        candidates = chain(
            [path, truth.path, moved_files.get(path.name)], _moved_together(prediction, path)
        )
    return next((path for path in candidates if path is not None and path_exists(path)), url)


def _moved_together(prediction: Path, recorded: Path) -> Iterator[Path]:
    """Yield where a slide may be if it was moved in one folder together with its prediction.

    The last parts of its path are then unchanged, below some parent folder of the prediction.
    """
    parts = recorded.parts[recorded.is_absolute() :]
    for first in range(len(parts)):
        for folder in prediction.resolve().parents:
            yield folder.joinpath(*parts[first:])


def _files_by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """Return the files in folders, at any depth, by name."""
    by_name: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise LibraryError(f"{folder}: no such folder; give one that holds slides to --slides.")
        for path in sorted(folder.rglob("*")):
            by_name.setdefault(path.name, path)
    return by_name


def _nothing_found(paths: Sequence[SlidePath], problems: Sequence[str]) -> LibraryError:
    if problems:
        return LibraryError(problems[0])
    searched = ", ".join(str(path) for path in paths)
    return LibraryError(
        f"{searched}: no predictions here or in the direct subfolders; make some with `parfocal "
        "predict RUN SLIDE... --out DIR`, then view DIR. A slide file needs no prediction."
    )
