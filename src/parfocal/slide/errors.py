"""What can be wrong with a slide file."""

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
