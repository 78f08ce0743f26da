"""Thumbnails of slides: read in the background, and encoded in batches of equal size."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from parfocal.bag import PixelSource


@dataclass(frozen=True)
class PendingThumbnail:
    """A thumbnail that is being read.

    Args:
        size: height and width in pixels.
        pixels: the thumbnail.
    """

    size: tuple[int, int]
    pixels: Future[UInt8[Tensor, "1 3 h w"]]


def request_thumbnail(source: PixelSource, longest_px: int) -> PendingThumbnail:
    """Start to read the thumbnail of a slide, and return without waiting.

    Args:
        source: pixels of the slide.
        longest_px: longer side of the thumbnail in pixels.
    """
    width, height = source.size
    scale = longest_px / max(width, height)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    whole = torch.tensor([[0.0, 0.0, width, height]])
    return PendingThumbnail(size, source.request(whole, size))


def encode_thumbnails(
    encode: Callable[[Tensor], Tensor],
    thumbnails: Sequence[PendingThumbnail],
    device: torch.device,
) -> list[Float[Tensor, "d _ _"]]:
    """Wait for thumbnails and encode those of the same size as one batch.

    Args:
        encode: network that maps images (n, 3, h, w) in 0..1 to feature maps.
        thumbnails: thumbnails that are being read.
        device: device of the network.

    Returns:
        One feature map per thumbnail.
    """
    encoded: dict[int, Tensor] = {}
    for size in dict.fromkeys(thumbnail.size for thumbnail in thumbnails):
        batch = [at for at, thumbnail in enumerate(thumbnails) if thumbnail.size == size]
        # Without gradients one by one, to save memory.
        for part in [batch] if torch.is_grad_enabled() else [[at] for at in batch]:
            pixels = torch.cat([thumbnails[at].pixels.result() for at in part])
            maps = encode(pixels.to(device).float() / 255)
            encoded |= dict(zip(part, maps, strict=True))
    return [encoded[at] for at in range(len(thumbnails))]
