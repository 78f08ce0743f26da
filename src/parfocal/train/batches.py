"""Batches of slides, for one process or for each of several."""

from collections.abc import Iterator
from typing import cast

import torch
from torch.utils.data import DataLoader, Dataset

from parfocal.dataset.sampler import BalancedSampler, ShuffledSampler
from parfocal.train.ranks import Ranks


class DealtBatches:
    """Batches of one slide, of which each process gets the same number.

    The slides of each step of the optimizer are distributed one by one. A process that gets one
    slide less than the others gets an empty batch at the end.

    Args:
        batches: the batches, in the same order in every process.
        ranks: the processes.
        per_step: number of batches of a step of the optimizer.
    """

    def __init__(self, batches: DataLoader[list[int]], ranks: Ranks, per_step: int) -> None:
        self._batches, self._ranks, self._per_step = batches, ranks, per_step

    def __len__(self) -> int:
        whole, rest = divmod(len(self._batches), self._per_step)
        count = self._ranks.count
        return whole * -(-self._per_step // count) + -(-rest // count)

    def __iter__(self) -> Iterator[list[int]]:
        step: list[list[int]] = []
        for batch in self._batches:
            step.append(batch)
            if len(step) == self._per_step:
                yield from self._own(step)
                step = []
        yield from self._own(step)

    def _own(self, step: list[list[int]]) -> Iterator[list[int]]:
        count = self._ranks.count
        for start in range(0, len(step), count):
            dealt = step[start : start + count]
            yield dealt[self._ranks.rank] if self._ranks.rank < len(dealt) else []


def batches_of(
    num_slides: int,
    batch_size: int,
    sampler: BalancedSampler | ShuffledSampler | None,
    *,
    ranks: Ranks,
    dealt: int | None,
) -> DataLoader[list[int]] | DealtBatches:
    """Return batches of positions of slides.

    Args:
        num_slides: number of slides.
        batch_size: number of slides in a batch.
        sampler: order of the training slides; None for validation slides, which are in order, and
            of which each process gets its share.
        ranks: the processes that train one model together.
        dealt: number of training batches in a step of the optimizer, which are dealt to the
            processes; None if every process gets all batches, and works on a part of each.
    """
    if not ranks.are_several:
        return _loader(num_slides, batch_size, sampler)
    if sampler is None:
        return _loader(num_slides, batch_size, range(ranks.rank, num_slides, ranks.count))
    loader = _loader(num_slides, batch_size, sampler)
    return loader if dealt is None else DealtBatches(loader, ranks, dealt)


def _loader(
    num_slides: int, batch_size: int, sampler: BalancedSampler | ShuffledSampler | range | None
) -> DataLoader[list[int]]:
    return DataLoader(
        cast("Dataset[list[int]]", range(num_slides)),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=list,
        generator=torch.Generator(),  # DataLoader draws a seed, here not from the global generator
    )
