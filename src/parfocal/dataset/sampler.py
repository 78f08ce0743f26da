"""Which slides an epoch learns from."""

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence

import numpy as np
import torch

from parfocal.dataset.cohort import CohortSlide


class BalancedSampler:
    """Draws as many slides as there are, with replacement, every class as often as another.

    What an epoch draws depends on the seed and its number alone, not on the epochs before.

    Args:
        slides: to draw from.
        seed: of every draw, with the epoch.
        epoch: tells which epoch it is, when one begins.
        left_out: ids that are not drawn, as they are when an epoch begins.
    """

    def __init__(
        self,
        slides: Sequence[CohortSlide],
        *,
        seed: int,
        epoch: Callable[[], int],
        left_out: Container[str] = (),
    ) -> None:
        self._slides, self._seed, self._epoch, self._left_out = slides, seed, epoch, left_out

    def __len__(self) -> int:
        return len(self._slides)

    def __iter__(self) -> Iterator[int]:
        left = [slide.slide_id not in self._left_out for slide in self._slides]
        counts = Counter(
            slide.label for slide, is_left in zip(self._slides, left, strict=True) if is_left
        )
        weights = torch.tensor(
            [
                1 / counts[slide.label] if is_left else 0.0
                for slide, is_left in zip(self._slides, left, strict=True)
            ]
        )
        generator = torch.Generator().manual_seed(mixed_seed(self._seed, self._epoch()))
        drawn = torch.multinomial(weights, len(weights), replacement=True, generator=generator)
        yield from drawn.tolist()


def mixed_seed(seed: int, epoch: int) -> int:
    """Give a seed for an epoch that has nothing in common with those of its neighbors."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
