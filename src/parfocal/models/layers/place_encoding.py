"""Sinusoidal encoding of the places of patches in the plane of the slide.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, for each axis, as in PATHS.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

WAVELENGTH = 10_000.0  # of the slowest wave, in units of 2 pi patches


def encode_places(cells: Int64[Tensor, "n 2"], dim: int) -> Float[Tensor, "n dim"]:
    """Return the encoding of places: the first half of column, the second of row.

    In each half, sines and cosines of falling frequency alternate.

    Args:
        cells: column and row of each patch in the grid of its magnification.
        dim: width of the encoding, a multiple of 4.
    """
    half = dim // 2
    exponents = torch.arange(0, half, 2, device=cells.device) / dim
    frequencies = torch.exp(-math.log(WAVELENGTH) * exponents)  # h/2
    angles = cells[:, :, None] * frequencies  # n 2 h/2
    waves = torch.stack([angles.sin(), angles.cos()], dim=3)  # n 2 h/2 2
    return waves.view(len(cells), dim)
