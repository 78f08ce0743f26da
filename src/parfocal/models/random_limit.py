"""Limit the visits of a training step at random, so that a model learns from partial bags, too.

A model that is only trained on all the patches that it wants has never answered from fewer, as it
has to when its visits stop early. In half of the steps, its visits end at a random place of the
order in which a model with a budget visits.
"""

import torch
from torch import Tensor

from parfocal.bag import Bag
from parfocal.models.layers.choosing import TopK

FULL_SHARE = 0.5  # of the training steps, in which all patches are visited


class RandomLimit:
    """Ends the visits of one training step at a random place.

    Args:
        num_zooms: number of zooms of the model.
        generator: random generator on the CPU.
    """

    def __init__(self, num_zooms: int, generator: torch.Generator) -> None:
        draws = torch.rand(3, generator=generator).tolist()
        self._last_zoom = num_zooms if draws[0] < FULL_SHARE else int(draws[1] * num_zooms)
        self._share = draws[2]  # of the patches that are wanted at the last zoom

    def choose(
        self, bag: Bag, step: int, topk: TopK, scores: Tensor, valid: Tensor
    ) -> Tensor | None:
        """Return one row per patch to zoom into; None after the last zoom."""
        del bag
        if step > self._last_zoom:
            return None
        wanted = topk(scores, valid)
        if step < self._last_zoom:
            return wanted
        count = int(self._share * len(wanted))
        if count == 0:
            return None
        # The score of a mixture of patches is the mean of theirs.
        means = wanted.detach() @ scores.detach()
        return wanted[means.topk(count).indices.sort().values]
