"""What can be wrong with a slide file."""

from dataclasses import dataclass
from pathlib import Path

from parfocal.slide.resolution import MAX_MPP, MIN_MPP


def give_mpp(which: str, *, listed: bool) -> str:
    """Say where microns per pixel are given: with the command, or in its table."""
    where = "in the cohort's mpp column" if listed else "with --mpp"
    return f"Give {which} {where} (a 40x scan is about 0.25, 20x about 0.5)."


class SlideError(Exception):
    """A slide that cannot be read as asked; the message says which, what and what to do."""


class MissingMppError(SlideError):
    """A slide that does not say how large its pixels are."""

    def __init__(
        self, path: Path, objective_power: str | None = None, *, listed: bool = False
    ) -> None:
        # An objective power is nominal, so it is told, never converted.
        power = "" if objective_power is None else f" (only an objective of {objective_power}x)"
        super().__init__(
            f"{path.name}: the file records no microns per pixel{power}, so its magnification is "
            f"unknown. {give_mpp('it', listed=listed)}"
        )


class ImplausibleMppError(SlideError):
    """A slide whose recorded pixel size no microscope has."""

    def __init__(self, path: Path, mpp: float, *, listed: bool = False) -> None:
        super().__init__(
            f"{path.name}: {mpp:.3g} microns per pixel is outside {MIN_MPP:g} to {MAX_MPP:g}, so "
            f"it is not believed. {give_mpp('the true one', listed=listed)}"
        )


class DamagedRegionError(SlideError):
    """A slide whose stored pixels cannot be decoded at one place, given in level-0 pixels."""

    def __init__(
        self, path: Path, place: tuple[int, int], size: tuple[int, int], level: int, reason: str
    ) -> None:
        super().__init__(
            f"{path.name}: damaged at x={place[0]}, y={place[1]} ({size[0]} x {size[1]} px of "
            f"level {level}): {reason}; copy the file again from its source."
        )


class NoTissueError(SlideError):
    """A slide on which nothing looks like stained tissue."""


@dataclass(frozen=True)
class Told:
    """Which slide failed, and why, the name not being in the reason again."""

    name: str
    reason: str


def name_once(slide: str, reason: str) -> Told:
    """Take a slide's name off the front of a reason; of its two names, the longer tells more.

    Args:
        slide: its id, or its file.
        reason: as an error says it.

    >>> name_once("007", "007.svs: the file is empty")
    Told(name='007.svs', reason='the file is empty')
    >>> name_once("007", "scan.svs: the file is empty")
    Told(name='007', reason='scan.svs: the file is empty')
    """
    name, _, rest = reason.partition(": ")
    said, known = Path(name).name, Path(slide).name
    same = said == known or said.startswith(f"{known}.") or known.startswith(f"{said}.")
    return Told(max(slide, name, key=len), rest) if rest and same else Told(slide, reason)
