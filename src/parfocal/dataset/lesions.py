"""The outlined lesions of the slides of a cohort, checked against the scans and their tissue."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from parfocal.bag import PixelSource
from parfocal.dataset.cohort_slide import CohortSlide
from parfocal.dataset.errors import CohortError
from parfocal.dataset.outlines import Outlines, matches, read_outlines
from parfocal.dataset.outlines_file import BOUNDS, OutlinesFile
from parfocal.features.slide_input import BagInput, PixelInput, SlideInput
from parfocal.slide.errors import SlideError
from parfocal.slide.readers.openslide import bounds_offset
from parfocal.slide.sources.url import SlidePath, SlideUrl

logger = logging.getLogger(__name__)

SLACK = 0.01  # of the longer side of the scan, by which corners may lie outside of it
MAX_CLASSES = 10  # listed in a message


class OutlinesError(SlideError):
    """Outlines that cannot be those of their slide."""


class Lesions:
    """The lesions of the slides of a cohort. All files are read at once, and their classes logged.

    Args:
        files: the outlines of each slide that has some, by slide id.

    Raises:
        CohortError: a file cannot be read, or a class is in none of the files.
    """

    def __init__(self, files: Mapping[str, OutlinesFile]) -> None:
        self._files = dict(files)
        self._checked: dict[str, Outlines] = {}
        self._compared: set[str] = set()  # slides whose tissue was compared
        # Corners count from the scan's corner or from its bounds, which only the slide records.
        self._outlines = {slide_id: _read(file) for slide_id, file in files.items()}
        _refuse_unknown_classes(self._files, self._outlines)
        _log_classes(self._files, self._outlines)

    @classmethod
    def of_slides(cls, slides: Sequence[CohortSlide]) -> "Lesions":
        """Read the lesions of slides."""
        return cls({slide.slide_id: slide.outlines for slide in slides if slide.outlines})

    def has(self, slide_id: str) -> bool:
        """Return whether a slide has outlines."""
        return slide_id in self._files

    def on_scan(self, slide_id: str, path: SlidePath, size: tuple[int, int]) -> Outlines | None:
        """Return the lesions of a slide, after checking that they lie on its scan.

        Args:
            slide_id: id of the slide.
            path: the slide file, which records the bounds of the scanned area.
            size: width and height of the scan, in level-0 pixels.

        Returns:
            The lesions; None where the cohort has no outlines of the slide.

        Raises:
            OutlinesError: no outline lies on the scan, or the slide file is needed and missing.
        """
        if slide_id not in self._outlines:
            return None
        if slide_id not in self._checked:
            self._checked[slide_id] = _on_scan(
                self._outlines[slide_id], self._files[slide_id], path, size
            )
        return self._checked[slide_id]

    def of_input(self, slide: CohortSlide, opened: SlideInput) -> Outlines | None:
        """Return the lesions of an opened slide, after checking them against scan and tissue.

        Outlines without any tissue are logged as a warning, once for each slide.

        Args:
            slide: the slide.
            opened: the opened slide.

        Raises:
            OutlinesError: see `on_scan`.
        """
        if isinstance(opened, BagInput) and not opened.placed:
            self._warn_unplaced(slide.slide_id)
            return None
        outlines = self.on_scan(slide.slide_id, slide.path, _size(opened))
        if outlines is None or not outlines.polygons or slide.slide_id in self._compared:
            return outlines
        self._compared.add(slide.slide_id)
        if not _touch_tissue(outlines, opened):
            logger.warning(
                "%s: there is no tissue under any outline of %s; check that the outlines are of "
                "this slide and in level-0 pixels, not in microns, or set outlines_offset in the "
                "cohort",
                *(slide.slide_id, self._files[slide.slide_id].path.name),
            )
        return outlines

    def _warn_unplaced(self, slide_id: str) -> None:
        """Log once that outlines cannot be compared with features that have no places."""
        if slide_id in self._outlines and not self._compared:
            logger.warning(
                "the features do not say where on the slides the patches lie, so the outlines are "
                "not used; if they store positions in um, the slide files must be available"
            )
            self._compared.add(slide_id)


def read_on_scan(file: OutlinesFile, path: SlidePath, size: tuple[int, int]) -> Outlines:
    """Read the outlines of one slide, and check that they lie on its scan.

    Args:
        file: the outlines.
        path: the slide file, which records the bounds of the scanned area.
        size: width and height of the scan, in level-0 pixels.

    Raises:
        CohortError: the file cannot be read.
        OutlinesError: no outline lies on the scan, or the slide file is needed and missing.
    """
    return _on_scan(_read(file), file, path, size)


def _read(file: OutlinesFile) -> Outlines:
    """Read outlines with their offset, or without it if it is that of the scanned area."""
    offset = (0.0, 0.0) if file.offset == BOUNDS else file.offset
    return read_outlines(file.path, classes=file.classes, offset=offset)


def _on_scan(
    outlines: Outlines, file: OutlinesFile, path: SlidePath, size: tuple[int, int]
) -> Outlines:
    if file.offset == BOUNDS:
        outlines = outlines.shifted(*_bounds(path, file))
    _check_on_scan(outlines, size, slide=path.name, file=file.path)
    return outlines


def _check_on_scan(outlines: Outlines, size: tuple[int, int], *, slide: str, file: Path) -> None:
    """Refuse outlines of which none lies on the scan; warn if some corners do not."""
    bounds = outlines.bounds[np.isfinite(outlines.bounds[:, 0])]  # a ring of two corners has none
    if not len(bounds):
        return
    x_min, y_min, x_max, y_max = bounds.T
    width, height = size
    slack = SLACK * max(size)
    off = (x_max <= 0) | (y_max <= 0) | (x_min >= width) | (y_min >= height)
    beyond = (
        (x_min < -slack) | (y_min < -slack) | (x_max > width + slack) | (y_max > height + slack)
    )
    if not beyond.any():
        return
    found = (
        f"{slide}: the outlines in {file.name} reach from x={x_min.min():.7g}, "
        f"y={y_min.min():.7g} to x={x_max.max():.7g}, y={y_max.max():.7g}, "
        f"and the scan has {width} x {height} pixels"
    )
    advice = (
        "check that they are of this slide and in level-0 pixels; if their viewer counts from the "
        "scanned area, set outlines_offset in the cohort to bounds, or to x and y"
    )
    if off.all():
        raise OutlinesError(f"{found}, so none lies on it; {advice}.")
    logger.warning("%s; %d of %d lie outside; %s", found, np.count_nonzero(off), len(off), advice)


def _bounds(path: SlidePath, file: OutlinesFile) -> tuple[float, float]:
    """Return the corner of the scanned area that the slide file records."""
    try:
        if isinstance(path, SlideUrl):
            return 0.0, 0.0  # formats with a scanned area are not read in place
        if not path.exists():
            raise SlideError("no such file")
        return bounds_offset(path)
    except (OSError, SlideError) as error:
        raise OutlinesError(
            f"{path}: outlines_offset is bounds for {file.path.name}, which the slide file "
            f"records, and it cannot be read ({error}); give x and y instead."
        ) from None


def _size(opened: SlideInput) -> tuple[int, int]:
    if isinstance(opened, BagInput):
        return opened.grid.slide_size
    assert isinstance(opened, PixelInput)
    return opened.model_input.size


def _touch_tissue(outlines: Outlines, opened: SlideInput) -> bool:
    """Return whether a patch of the highest magnification, or tissue, is under an outline."""
    if isinstance(opened, BagInput):
        grid, step = opened.grid, opened.steps[-1]
        rows = np.flatnonzero(grid.valid(step))
        corners = grid.coords(step, rows).astype(float)
        overlap = outlines.overlap(corners[:, 0], corners[:, 1], grid.side_px(step))
        return bool((overlap > 0).any())
    assert isinstance(opened.model_input, PixelSource)
    x_min, y_min, x_max, y_max = outlines.bounds.T
    boxes = np.stack([x_min, y_min, x_max - x_min, y_max - y_min], axis=1)
    return bool((opened.model_input.tissue(torch.from_numpy(boxes).float()) > 0).any())


def _refuse_unknown_classes(
    files: Mapping[str, OutlinesFile], outlines: Mapping[str, Outlines]
) -> None:
    """Refuse a class that no file has; that one of many slides has no lesion is usual."""
    met = Counter[str]()
    for each in outlines.values():
        met.update(each.class_counts)
    for file in files.values():
        for name in file.classes:
            if not any(matches(known, (name,)) for known in met):
                raise CohortError(
                    f"{file.path.name}: no outline has class {name!r} (found: {_list(met)}); "
                    "correct the name in the column outlines."
                )


def _log_classes(files: Mapping[str, OutlinesFile], outlines: Mapping[str, Outlines]) -> None:
    """Log which classes were met and which count as lesions, in one line for all slides."""
    if not files:
        return
    met, chosen = Counter[str](), Counter[str]()
    for each in outlines.values():
        met.update(each.class_counts)
        chosen.update(Counter(polygon.class_name or "" for polygon in each.polygons))
    message = f"outlines of {len(files)} slide{'s' * (len(files) != 1)}: {_list(chosen)}"
    left_out = met - chosen
    if left_out:
        message += f"; not selected: {_list(left_out)}"
    crossing = sum(each.crossing for each in outlines.values())
    if crossing:
        message += f"; {crossing} cross themselves and were made valid"
    if len(chosen) > 1 and not any(file.classes for file in files.values()):
        example = next(iter(files.values())).path.name
        name = next(name for name in chosen if name)
        logger.warning(
            "%s; all count as lesions (to select some, write %s:%s in the column outlines)",
            *(message, example, name),
        )
    else:
        logger.info("%s", message)


def _list(counts: Counter[str]) -> str:
    listed = [f"{name or 'no class'} {count}" for name, count in counts.most_common(MAX_CLASSES)]
    return ", ".join(listed + ["..."] * (len(counts) > MAX_CLASSES)) or "none"
