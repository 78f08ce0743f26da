"""Sample the training slides of an epoch."""

from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence

import numpy as np
import torch

from parfocal.dataset.cohort import CohortSlide


class BalancedSampler:
    """Sample slides with replacement, with equal probability for every class.

    An epoch has as many samples as there are slides. They depend only on the seed and the number
    of the epoch, not on earlier epochs.

    Args:
        slides: the training slides.
        seed: seed of the samples.
        epoch: returns the number of the current epoch; called when an epoch starts.
        excluded: ids of slides that are not sampled; read when an epoch starts.
    """

    def __init__(
        self,
        slides: Sequence[CohortSlide],
        *,
        seed: int,
        epoch: Callable[[], int],
        excluded: Container[str] = (),
    ) -> None:
        self._slides, self._seed, self._epoch, self._excluded = slides, seed, epoch, excluded

    def __len__(self) -> int:
        return len(self._slides)

    def __iter__(self) -> Iterator[int]:
        included = [slide.slide_id not in self._excluded for slide in self._slides]
        counts = Counter(
            slide.label for slide, keep in zip(self._slides, included, strict=True) if keep
        )
        weights = torch.tensor(
            [
                1 / counts[slide.label] if keep else 0.0
                for slide, keep in zip(self._slides, included, strict=True)
            ]
        )
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self._epoch()))
        drawn = torch.multinomial(weights, len(weights), replacement=True, generator=generator)
        yield from drawn.tolist()


class ShuffledSampler:
    """Sample every slide once, in random order, with the groups spread evenly over the epoch.

    The order depends only on the seed and the number of the epoch.

    Args:
        slides: the training slides.
        seed: seed of the order.
        epoch: returns the number of the current epoch; called when an epoch starts.
        excluded: ids of slides that are not sampled; read when an epoch starts.
    """

    def __init__(
        self,
        slides: Sequence[CohortSlide],
        *,
        seed: int,
        epoch: Callable[[], int],
        excluded: Container[str] = (),
    ) -> None:
        self._slides, self._seed, self._epoch, self._excluded = slides, seed, epoch, excluded

    def __len__(self) -> int:
        return len(self._slides)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, self._epoch()))
        groups: dict[str, list[int]] = {}
        for position in torch.randperm(len(self._slides), generator=generator).tolist():
            slide = self._slides[position]
            if slide.slide_id not in self._excluded:
                groups.setdefault(slide.split_group, []).append(position)
        # Each group fills the epoch evenly: its members stand at (i + random) / count.
        placed = [
            (i + float(torch.rand((), generator=generator))) / len(members)
            for members in groups.values()
            for i in range(len(members))
        ]
        flat = [position for members in groups.values() for position in members]
        yield from (position for _, position in sorted(zip(placed, flat, strict=True)))


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Return a seed for one epoch, independent of the seeds of other epochs.

    Args:
        seed: seed of the run.
        epoch: number of the epoch, from 0.
        rank: number of the process, of several that train one model; each has its own seed.
    """
    entropy = [seed, epoch, rank] if rank else [seed, epoch]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1
