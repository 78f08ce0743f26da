"""What can be wrong with a slide file."""

from pathlib import Path


class SlideError(Exception):
    """A slide that cannot be read as asked; the message says which, what and what to do."""


class MissingMppError(SlideError):
    """A slide that does not say how large its pixels are."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path.name}: the file records no microns per pixel, so its magnification is "
            "unknown. Give it with --mpp or in the cohort's mpp column (a 40x scan is about "
            "0.25, 20x about 0.5)."
        )


class ImplausibleMppError(SlideError):
    """A slide whose recorded pixel size no microscope has."""

    def __init__(self, path: Path, mpp: float) -> None:
        super().__init__(
            f"{path.name}: {mpp:g} microns per pixel is outside 0.05 to 50, so it is not "
            "believed. Give the true one with --mpp or in the cohort's mpp column (a 40x scan "
            "is about 0.25, 20x about 0.5)."
        )
