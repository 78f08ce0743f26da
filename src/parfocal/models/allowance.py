"""Spend a fixed budget: how many of the patches that a model wants are visited at each zoom.

The lowest magnification is visited as a whole. What is left is divided among the zooms in
proportion to what the model spends at each by itself. Patches are taken most wanted first, as long
as all their existing children fit, so a budget is never exceeded, and what one zoom leaves over
goes to the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from parfocal.bag import Bag
from parfocal.models.layers.choosing import TopK, one_hots, ranked
from parfocal.models.limited_bag import existing_children, random_scores

ROUNDING = 1e-9  # of a budget; a sum of shares may exceed it by so much


@dataclass(frozen=True)
class Tariff:
    """What patches cost.

    Args:
        prices: cost of a patch at each magnification, lowest first, in units of the budget.
        weights: for each zoom, what the model spends on it by itself, in any unit.
    """

    prices: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def of_zooms(
        cls, prices: Sequence[float], k: Sequence[int], magnifications: Sequence[float]
    ) -> "Tariff":
        """Return the tariff of a model.

        Args:
            prices: cost of a patch at each magnification, lowest first.
            k: number of patches that the model zooms into at each zoom.
            magnifications: magnifications of the model, lowest first.
        """
        ratios = [b / a for a, b in pairwise(magnifications)]
        weights = [
            each * ratio**2 * price
            for each, ratio, price in zip(k, ratios, prices[1:], strict=True)
        ]
        return cls(tuple(prices), tuple(weights))


class Allowance:
    """Limits the visits of one slide to a budget.

    Args:
        amount: the budget, in units of the prices.
        tariff: what patches cost.
        random_seed: seed of a random order of visits; None for that of the model.
    """

    def __init__(self, amount: float, tariff: Tariff, *, random_seed: int | None = None) -> None:
        self.amount, self._tariff, self._random_seed = amount, tariff, random_seed
        self.spent = 0.0
        self.lowest = 0.0  # what the lowest magnification alone costs
        self.wants_more = False  # whether patches were left out

    @property
    def met(self) -> bool:
        """Whether the budget covers at least the lowest magnification."""
        return self.lowest <= self.amount * (1 + ROUNDING)

    def choose(
        self, bag: Bag, step: int, topk: TopK, scores: Tensor, valid: Tensor
    ) -> Tensor | None:
        """Return one row per patch to zoom into; None if no more fits into the budget."""
        del topk  # the budget takes the place of its K
        if step == 0:
            self.lowest = self.spent = int(valid.sum()) * self._tariff.prices[0]
        if self._random_seed is not None:
            scores = random_scores(scores, self._random_seed, step)
        order = ranked(scores, valid)
        costs = existing_children(bag)[order.cpu()] * self._tariff.prices[step + 1]
        totals = costs.double().cumsum(dim=0)
        left = self.amount * (1 + ROUNDING) - self.spent
        own, all_following = self._tariff.weights[step], sum(self._tariff.weights[step:])
        count = int((totals <= left * own / all_following).sum())
        if count == 0:
            count = int((totals[:1] <= left).sum())
        self.wants_more |= count < len(order)
        if count == 0:
            return None
        self.spent += float(totals[count - 1])
        return one_hots(order[:count], scores)
