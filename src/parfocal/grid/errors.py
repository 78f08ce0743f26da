"""Errors of slides over which no patches can be laid."""

import math
from collections.abc import Sequence

from parfocal.slide.errors import SlideError
from parfocal.slide.resolution import describe_too_sharp, magnification_of


class GridError(SlideError):
    """No patches can be laid over a slide. The message does not name the slide."""


class UnavailableMagnificationError(GridError):
    """A magnification is sharper than the scan, or so low that the slide is smaller than a patch.

    Args:
        problem: what does not fit.
        advice: what to do if magnifications can be chosen.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(problem, advice)

    def __str__(self) -> str:
        problem, advice = self.args
        return f"{problem}; {advice}."

    def message_for_model(self, magnifications: Sequence[float]) -> str:
        """Return the message for a trained model, whose magnifications cannot be chosen.

        Args:
            magnifications: magnifications of the model.
        """
        names = ", ".join(f"{magnification:g}x" for magnification in magnifications)
        return (
            f"{self.args[0]}; the model was trained at {names} and takes no other, so correct the "
            "slide's mpp if it is wrong, exclude the slide, or train with other --magnifications."
        )


def too_sharp_error(wanted: float, scan: float) -> UnavailableMagnificationError:
    """Return the error for a resolution that is finer than the scan.

    Args:
        wanted: requested resolution, in µm per pixel.
        scan: resolution of the scan, in µm per pixel.
    """
    return UnavailableMagnificationError(
        describe_too_sharp(wanted, scan),
        "leave that magnification out (slide.magnifications), or correct the slide's mpp",
    )


def fitting_advice(lowest: float, scan: float) -> str:
    """Return what to do about a slide that is smaller than one patch.

    Args:
        lowest: lowest magnification at which the slide is as large as a patch.
        scan: magnification of the scan.
    """
    smaller = "smaller patches (slide.patch_size), or exclude the slide"
    if lowest > scan * 1.001:
        return f"use {smaller}"
    sharper = f"magnifications of {math.ceil(lowest * 100 - 1e-6) / 100:g}x or higher"
    return f"use {sharper} (slide.magnifications), {smaller}"


def too_small_error(
    size_um: tuple[float, float], mpp: float, patch_um: float, *, scan_mpp: float
) -> UnavailableMagnificationError:
    """Return the error for a slide that is smaller than one patch.

    Args:
        size_um: width and height of the slide, in µm.
        mpp: requested resolution of the patch, in µm per pixel.
        patch_um: side of the patch, in µm.
        scan_mpp: resolution of the scan, in µm per pixel.
    """
    width, height = size_um
    lowest = magnification_of(mpp) * patch_um / max(size_um)
    return UnavailableMagnificationError(
        f"the slide is {width:.0f} x {height:.0f} um, {width / patch_um:.2g} x "
        f"{height / patch_um:.2g} of a patch at {magnification_of(mpp):g}x ({patch_um:.0f} um "
        "wide)",
        fitting_advice(lowest, magnification_of(scan_mpp)),
    )
