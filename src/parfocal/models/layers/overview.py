"""A slide at a glance: its thumbnail, read and encoded, of slides of any size together."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from parfocal.bag import PixelSource

Asked = tuple[tuple[int, int], Future[UInt8[Tensor, "1 3 h w"]]]


def ask_overview(source: PixelSource, longest_px: int) -> Asked:
    """Begin to read a slide as a whole, and return at once: height and width, and the pixels."""
    width, height = source.size
    shrunk = longest_px / max(width, height)
    size = max(1, round(height * shrunk)), max(1, round(width * shrunk))
    whole = torch.tensor([[0.0, 0.0, width, height]])
    return size, source.request(whole, size)


def encode_overviews(
    encode: Callable[[Tensor], Tensor], asked: Sequence[Asked], device: torch.device
) -> list[Float[Tensor, "d _ _"]]:
    """Wait for thumbnails, and encode those of one size together."""
    encoded: dict[int, Tensor] = {}
    for size in dict.fromkeys(size for size, _ in asked):
        alike = [place for place, (other, _) in enumerate(asked) if other == size]
        pixels = torch.cat([asked[place][1].result() for place in alike])
        maps = encode(pixels.to(device).float() / 255)
        encoded |= dict(zip(alike, maps, strict=True))
    return [encoded[place] for place in range(len(asked))]
