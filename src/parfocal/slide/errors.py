"""Errors about slide files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parfocal.slide.resolution import MAX_MPP, MIN_MPP
from parfocal.slide.sources.url import SlidePath

MAX_NAMES = 3  # of slides that failed for the same reason, in a message


def mpp_advice(value: str, *, from_cohort: bool) -> str:
    """Return the sentence that says where to set microns per pixel.

    Args:
        value: what to set, "it" or "the true value".
        from_cohort: whether the slide is a row of a cohort's table; if False, it is named on the
            command line.
    """
    place = "in the cohort's mpp column" if from_cohort else "with --mpp"
    return f"Set {value} {place} (a 40x scan has about 0.25, a 20x scan about 0.5)."


def tissue_advice(*, from_cohort: bool) -> str:
    """Return what to do where tissue is found wrong, as a clause with a final period.

    Args:
        from_cohort: whether the slide is a row of a cohort's table; if False, it is named on the
            command line.
    """
    if not from_cohort:
        return "give a file with the tissue with --tissue."
    return (
        "name a file with the tissue in the cohort's tissue column, or choose another method: "
        "--tissue-method of `inspect` and `extract`, slide.tissue_method of `train`."
    )


def one_line(error: Exception) -> str:
    """Return the message of another library on one line, without a final period."""
    return " ".join(str(error).split()).rstrip(".")


class SlideError(Exception):
    """A slide that cannot be read. The message names the slide, the problem and the remedy."""


class MissingMppError(SlideError):
    """A slide that does not record the size of its pixels.

    Args:
        path: the file.
        objective_power: nominal magnification that the file records, if any. It is only mentioned,
            never converted, because it does not determine the size of a pixel.
        from_cohort: whether the slide is a row of a cohort's table.
    """

    def __init__(
        self, path: SlidePath, objective_power: str | None = None, *, from_cohort: bool = False
    ) -> None:
        power = "" if objective_power is None else f" (only an objective of {objective_power}x)"
        super().__init__(
            f"{path.name}: the file records no microns per pixel{power}, so its magnification is "
            f"unknown. {mpp_advice('it', from_cohort=from_cohort)}"
        )


class ImplausibleMppError(SlideError):
    """A slide that records a pixel size that no microscope has.

    Args:
        path: the file.
        mpp: recorded microns per pixel.
        from_cohort: whether the slide is a row of a cohort's table.
    """

    def __init__(self, path: SlidePath, mpp: float, *, from_cohort: bool = False) -> None:
        super().__init__(
            f"{path.name}: the file records {mpp:.3g} microns per pixel, which is outside the "
            f"plausible range of {MIN_MPP:g} to {MAX_MPP:g}. "
            f"{mpp_advice('the true value', from_cohort=from_cohort)}"
        )


class NotSquareError(SlideError):
    """A slide that records pixels that are not square.

    Args:
        path: the file.
        sides: recorded width and height of a pixel in microns.
        from_cohort: whether the slide is a row of a cohort's table.
    """

    def __init__(
        self, path: SlidePath, sides: tuple[float, float], *, from_cohort: bool = False
    ) -> None:
        place = "in the cohort's mpp column" if from_cohort else "with --mpp"
        super().__init__(
            f"{path.name}: the file records pixels of {sides[0]:.4g} x {sides[1]:.4g} microns, "
            "which are not square. Resample it to square pixels; if the record is wrong, set the "
            f"true value {place}."
        )


class DamagedRegionError(SlideError):
    """A slide with a region whose stored pixels cannot be decoded.

    Args:
        path: the file.
        corner: (x, y) of the region's top-left corner, in level-0 pixels.
        size: width and height of the region, in pixels of the level.
        level: index of the level.
        reason: message of the decoder.
    """

    def __init__(
        self,
        path: SlidePath,
        corner: tuple[int, int],
        size: tuple[int, int],
        level: int,
        reason: str,
    ) -> None:
        super().__init__(
            f"{path.name}: damaged at x={corner[0]}, y={corner[1]} ({size[0]} x {size[1]} px of "
            f"level {level}): {reason}. Copy the file again from its source."
        )


class NoTissueError(SlideError):
    """A slide in which no stained tissue was found."""


@dataclass(frozen=True)
class SlideFailure:
    """A slide that failed.

    Args:
        name: id or file of the slide.
        reason: the reason, without the name.
    """

    name: str
    reason: str


def name_failure(slide: str, reason: str) -> SlideFailure:
    """Remove the slide's name from the start of an error message.

    Args:
        slide: id or file of the slide.
        reason: message of the error.

    Returns:
        The longer of the two names, and the reason. If the message begins with another name, that
        name stays in the reason.

    >>> name_failure("007", "007.svs: the file is empty")
    SlideFailure(name='007.svs', reason='the file is empty')
    >>> name_failure("007", "scan.svs: the file is empty")
    SlideFailure(name='007', reason='scan.svs: the file is empty')
    """
    prefix, _, rest = reason.partition(": ")
    named, slide_name = Path(prefix).name, Path(slide).name
    is_same = (
        named == slide_name
        or named.startswith(f"{slide_name}.")
        or slide_name.startswith(f"{named}.")
    )
    if rest and is_same:
        return SlideFailure(max(slide, prefix, key=len), rest)
    return SlideFailure(slide, reason)


def group_failures(failed: Mapping[str, str]) -> list[str]:
    """Return one line for each reason of failures: the first slides, how many more, and the reason.

    Reasons are equal if they differ only in the name of the slide, which is then written as NAME.

    >>> group_failures({"1": "the file is empty", "2": "is damaged", "3": "is damaged"})
    ['1: the file is empty', '2, 3: is damaged']

    Args:
        failed: reason by id or file of the slide.
    """
    groups: dict[str, list[SlideFailure]] = {}
    for slide, text in failed.items():
        failure = name_failure(slide, text)
        groups.setdefault(_without_name(failure), []).append(failure)
    lines = []
    for reason, failures in groups.items():
        names = ", ".join(failure.name for failure in failures[:MAX_NAMES])
        more = len(failures) - MAX_NAMES
        others = f" and {more} more" if more > 0 else ""
        lines.append(f"{names}{others}: {reason if len(failures) > 1 else failures[0].reason}")
    return lines


def _without_name(failure: SlideFailure) -> str:
    """Return a reason with NAME for the name of the slide, with and without its extension."""
    file = Path(failure.name)
    names = [file.name] if file.stem.isdigit() else [file.name, file.stem]  # 3 may be a number
    found = "|".join(re.escape(name) for name in names)
    return re.sub(rf"(?<!\w)({found})(?!\w)", "NAME", failure.reason)
