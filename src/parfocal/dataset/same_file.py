"""Refuse slide files that are in a cohort twice, under other ids, by path or by content."""

import filecmp
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from parfocal.cost import CostMeter
from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.slide.errors import SlideError
from parfocal.slide.identity import file_fingerprint
from parfocal.slide.readers.dicom import is_dicom_name
from parfocal.slide.readers.dicom_header import is_dicom
from parfocal.slide.readers.opening import open_scan
from parfocal.slide.sources.url import SlidePath, SlideUrl, comparable_url


def refuse_one_file_twice(source: Path, slides: Sequence[CohortSlide]) -> None:
    """Check that no two rows name one file, also through links or as `./a.svs` and `a.svs`.

    Args:
        source: the table.
        slides: its rows; files need not exist.

    Raises:
        CohortError: two rows name one file.
    """
    first: dict[object, CohortSlide] = {}
    pairs = []
    for slide in slides:
        other = first.setdefault(_file_key(slide.path), slide)
        if other is not slide:
            pairs.append((other, slide))
    if pairs:
        raise _error(source, pairs, "is also the slide file")


def refuse_equal_contents(source: Path, slides: Sequence[CohortSlide]) -> None:
    """Check that no two slide files have the same content.

    Only files of equal size are read: their ends first, and the rest if these are equal.

    Args:
        source: the table.
        slides: its rows; files that are no slides are ignored, as they fail by themselves: two
            pages of an error that a server sent instead of slides are no copies of a slide.

    Raises:
        CohortError: a file is a copy of another.
    """
    pairs = []
    for same_size in _groups((slide, _size(slide.path)) for slide in slides):
        for same_ends in _groups((slide, _fingerprint(slide.path)) for slide in same_size):
            pairs += [
                (same_ends[0], slide)
                for slide in same_ends[1:]
                if _equal(same_ends[0].path, slide.path) and _is_slide(slide.path)
            ]
    if pairs:
        raise _error(source, pairs, "has the same content as the slide file")


def refuse_equal_fingerprints(
    source: Path, slides: Iterable[tuple[CohortSlide, str | None]]
) -> None:
    """Check that no two slides have the same fingerprint, for slides with stored features.

    Args:
        source: the table.
        slides: its rows, with the fingerprint of each slide file; None if it is unknown.

    Raises:
        CohortError: two slides have the same fingerprint.
    """
    groups = _groups(slides)
    pairs = [(group[0], slide) for group in groups for slide in group[1:]]
    if pairs:
        raise _error(source, pairs, "has the same fingerprint as the slide file")


def _error(
    source: Path, pairs: Sequence[tuple[CohortSlide, CohortSlide]], relation: str
) -> CohortError:
    first, second = pairs[0]
    ids = f"slide_id {first.slide_id!r} and {second.slide_id!r}"
    if first.label != second.label:
        ids += f", label {first.label!r} and {second.label!r}"
    count = f"; {len(pairs)} such rows" if len(pairs) > 1 else ""
    return CohortError(
        f"{source.name} row {second.row}: {second.path} {relation} of row {first.row} ({ids}"
        f"{count}), so a model could be trained and tested on one slide; keep one row for each."
    )


def _file_key(path: SlidePath) -> object:
    """Return what identifies a file: its place on the disk, or its path if it does not exist."""
    if isinstance(path, SlideUrl):
        return comparable_url(path)
    try:
        status = path.stat()
    except (OSError, ValueError):
        return os.path.normpath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _groups(slides: Iterable[tuple[CohortSlide, object]]) -> Iterator[list[CohortSlide]]:
    """Yield the slides with an equal key, if there are two or more; ignore those with None."""
    groups: dict[object, list[CohortSlide]] = defaultdict(list)
    for slide, key in slides:
        if key is not None:
            groups[key].append(slide)
    yield from (group for group in groups.values() if len(group) > 1)


def _size(path: SlidePath) -> int | None:
    """Return the size of a file; -1 if several may make one slide, as in DICOM; None for a URL."""
    if isinstance(path, SlideUrl):
        return None  # asking each server would take long
    try:
        # Empty files are no copies: they fail by themselves.
        return -1 if _is_series(path) else path.stat().st_size or None
    except (OSError, ValueError):
        return None


def _is_series(path: Path) -> bool:
    if path.is_dir():
        return True
    return is_dicom_name(path.name) and path.is_file() and is_dicom(path)


def _fingerprint(path: SlidePath) -> str | None:
    try:
        return file_fingerprint(path)
    except (OSError, ValueError, SlideError):
        return None


def _is_slide(path: SlidePath) -> bool:
    """Return whether a file can be opened as a slide."""
    try:
        open_scan(path, CostMeter(), missing_tiles="background").close()
    except Exception:  # damage raises anything
        return False
    return True


def _equal(first: SlidePath, second: SlidePath) -> bool:
    """Return whether two files with equal fingerprints are equal between their ends, too."""
    if isinstance(first, SlideUrl) or isinstance(second, SlideUrl):
        return first == second
    try:
        if _is_series(first) and _is_series(second):
            return True
        return filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False
