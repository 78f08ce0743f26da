"""Check that an encoder is used at resolutions that it was made for."""

import logging
from collections.abc import Sequence
from functools import cache

from parfocal.encoders.card import MPP_TOLERANCE
from parfocal.encoders.spec import EncoderSpec
from parfocal.encoders.weights import EncoderError

ROUNDING = 1e-6  # of an mpp that is computed from a magnification

logger = logging.getLogger(__name__)


def refuse_outside_range(encoders: Sequence[EncoderSpec], mpps: Sequence[float]) -> None:
    """Raise if the resolution of a magnification is outside the range of its encoder.

    Args:
        encoders: encoder of each magnification, lowest first.
        mpps: µm per pixel of each magnification.

    Raises:
        EncoderError: an mpp is outside the range of its encoder.
    """
    for encoder, mpp in zip(encoders, mpps, strict=True):
        if not _in_range(encoder, mpp):
            raise EncoderError(
                f"{_range_text(encoder, mpp)}. Choose another magnification, or another encoder "
                f"for this one (encoder: {{{10 / mpp:g}: efficientnet-lite0, ...}}); to use it "
                "anyway, set encoder.any_mpp=true (extract: --any-mpp)."
            )


def warn_outside_range(encoders: Sequence[EncoderSpec], mpps: Sequence[float]) -> None:
    """Log which encoders of stored features were used outside their range of resolutions.

    Args:
        encoders: encoder of each magnification, lowest first.
        mpps: µm per pixel of each magnification.
    """
    for encoder, mpp in zip(encoders, mpps, strict=True):
        if not _in_range(encoder, mpp):
            _warn_once(f"{_range_text(encoder, mpp)}: expect worse features there")


def warn_of_patch_size(
    encoders: Sequence[EncoderSpec], mpps: Sequence[float], patch_size: int
) -> None:
    """Log which encoders get images at another scale because the patch size differs from theirs.

    Args:
        encoders: encoder of each magnification, lowest first.
        mpps: µm per pixel of each magnification.
        patch_size: side of a patch in pixels.
    """
    for encoder, mpp in zip(encoders, mpps, strict=True):
        scale = patch_size / (encoder.patch_px or patch_size)
        if 1 / MPP_TOLERANCE <= scale <= MPP_TOLERANCE:
            continue
        network_px = encoder.resize_px or encoder.input_size
        _warn_once(
            f"encoder {encoder.name} was made for patches of {encoder.patch_px} px, resized to "
            f"{network_px} px; from patches of {patch_size} px at {10 / mpp:g}x its network sees "
            f"{mpp * patch_size / network_px:.3g} µm/px, not "
            f"{mpp * encoder.patch_px / network_px:.3g}. Set slide.patch_size={encoder.patch_px} "
            "(extract: --patch-size) to use it as its authors do"
        )


def _in_range(encoder: EncoderSpec, mpp: float) -> bool:
    low, high = encoder.mpp_range
    return low * (1 - ROUNDING) <= mpp <= high * (1 + ROUNDING)


def _range_text(encoder: EncoderSpec, mpp: float) -> str:
    low, high = encoder.mpp_range
    return (
        f"encoder {encoder.name} was made for {low:g} to {high:g} µm/px, and {10 / mpp:g}x has "
        f"{mpp:g}"
    )


@cache
def _warn_once(text: str) -> None:
    """Log a warning unless this process has logged it before."""
    logger.warning("%s", text)
