"""Say where a slide is read at another resolution than the features of the training had.

TRIDENT extracts at nominal magnifications: it takes a scan of 0.2 to 0.3 µm per pixel for 40x, and
its patches at 10x are then read four times as coarse as that scan. Parfocal reads exact µm per
pixel.
"""

from collections.abc import Sequence

from parfocal.features.foreign.nominal import nominal_magnification
from parfocal.models.checkpoint import Checkpoint
from parfocal.slide.resolution import mpp_of, same_resolution


def nominal_notes(trained: Checkpoint, slide_mpp: float) -> tuple[str, ...]:
    """Return a sentence if the features of the training had another resolution than this slide.

    Args:
        trained: the model.
        slide_mpp: µm per level-0 pixel of the slide.
    """
    if not trained.training.feature_tool:
        return ()
    differing = [
        text
        for magnification in trained.magnifications
        if (text := _difference(trained, magnification, slide_mpp)) is not None
    ]
    if not differing:
        return ()
    return (
        f"The model was trained on features by {trained.training.feature_tool}, whose "
        f"magnifications are nominal: {'; '.join(differing)}.",
    )


def _difference(trained: Checkpoint, magnification: float, slide_mpp: float) -> str | None:
    """Return how the exact resolution differs from that of the training; None if it does not."""
    exact, training = mpp_of(magnification), trained.training
    true = training.feature_mpps.get(f"{magnification:g}")
    if true is not None and not _within(exact, true):
        return (
            f"{magnification:g}x was truly {true[1]:.3g} µm/px ({true[0]:.3g} to {true[2]:.3g}) "
            f"in the training, and this slide is read at {exact:.3g}"
        )
    if true is None and training.feature_tool == "TRIDENT":
        nominal = slide_mpp * nominal_magnification(slide_mpp) / magnification
        if not same_resolution(exact, nominal):
            return (
                f"{magnification:g}x of this scan is {nominal:.3g} µm/px there, and it is read at "
                f"{exact:.3g}"
            )
    return None


def _within(exact: float, true: Sequence[float]) -> bool:
    """Return whether a resolution is one of the training's."""
    return true[0] <= exact <= true[2] or any(same_resolution(exact, each) for each in true)
