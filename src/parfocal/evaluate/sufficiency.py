"""Measure whether the patches that a model attends to are enough, and whether they are needed.

Three questions, each against patches chosen at random:

- How many of the patches that the model wants, most wanted first, are enough for its class?
- Given every patch, does the class stay if only the patches with the most attention are kept, or if
  these are removed?
- How does the probability of the class fall as more and more of them are removed?

Source: ours; the questions are those of ReaMIL (arXiv 2601.10073) and of deletion curves (Petsiuk
    et al., "RISE", BMVC 2018). Patches are kept or removed at each magnification alike.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from parfocal.bag import Bag, ExhaustiveBag
from parfocal.models.limited_bag import Visited, random_scores
from parfocal.models.rounds import Rounds
from parfocal.models.stopping import answered
from parfocal.prediction import Prediction

KEPT_SHARE = 0.05
DELETED_SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
RANDOM_SEED = 0

RunModel = Callable[[Bag], Prediction]


class MaskedBag:
    """A bag without some of its patches, whichever a model zooms into.

    Args:
        bag: the bag; it is zoomed into every patch.
        kept: for each step, whether each patch is kept; all are at other steps.
        visited: keeps the features between runs of a model.
        step: index of the magnification of the bag.
    """

    def __init__(
        self, bag: Bag, kept: Mapping[int, Bool[Tensor, " _"]], visited: Visited, step: int = 0
    ) -> None:
        self._bag, self._kept, self._visited, self._step = bag, kept, visited, step

    @property
    def rows(self) -> Int64[Tensor, " n"]:
        """Row numbers of the patches; see `Bag`."""
        return self._bag.rows

    @property
    def valid(self) -> Bool[Tensor, " n"]:
        """Whether each patch exists and is kept."""
        kept = self._kept.get(self._step)
        return self._bag.valid if kept is None else self._bag.valid & kept

    @property
    def parents(self) -> Int64[Tensor, " n"] | None:
        """Position of each patch's parent; see `Bag`."""
        return self._bag.parents

    def features(self) -> Float[Tensor, "n d"]:
        """Return the features of the patches, zeros for those that were removed."""
        features = self._visited.features(self._step, self._bag)
        kept = self._kept.get(self._step)
        if kept is None:
            return features
        return features.masked_fill(~kept.to(features.device)[:, None], 0)

    def cells(self) -> Int64[Tensor, "n 2"]:
        """Return (column, row) of the patches; see `Bag`."""
        return self._bag.cells()

    def slides(self) -> Int64[Tensor, " n"]:
        """Return the slide of each patch; see `Bag`."""
        return self._bag.slides()

    def zoom(self, select: Float[Tensor, "k n"] | None) -> "MaskedBag":
        """Return the children of all patches; the selection is ignored."""
        return MaskedBag(self._bag.zoom(None), self._kept, self._visited, self._step + 1)


@dataclass(frozen=True)
class Sufficiency:
    """Whether the patches that a model attends to on one slide are enough, and needed.

    Args:
        sufficient: smallest number of visited patches, most wanted first, from which on the class
            is that of all the patches that the model visits by itself.
        sufficient_at_random: the same with patches at random; None if as many patches as the model
            visits by itself are not enough.
        kept: probability, with only the patches of the most attention, of the class that the model
            gives with every patch.
        kept_at_random: the same with as many patches at random.
        removed: for each of `DELETED_SHARES`, that probability without so many of the patches of
            the most attention.
        removed_at_random: the same without as many patches at random.
        same_class: whether the class is the same with the kept patches, with those at random,
            without the same number of patches, and without as many at random.
    """

    sufficient: int
    sufficient_at_random: int | None
    kept: float
    kept_at_random: float
    removed: tuple[float, ...]
    removed_at_random: tuple[float, ...]
    same_class: tuple[bool, bool, bool, bool]


def measure_sufficiency(
    run: RunModel,
    bag: Bag,
    exhaustive: Prediction,
    *,
    decision: float | None = None,
    temperature: float = 1.0,
) -> Sufficiency:
    """Measure one slide.

    Args:
        run: runs the model on a bag.
        bag: the bag of the slide.
        exhaustive: the prediction with every patch.
        decision: for two classes, the lowest probability of the second one at which it is
            predicted; None to predict the most probable class.
        temperature: number that the logits are divided by.
    """

    def class_of(logits: Float[Tensor, " c"]) -> int:
        return answered((logits.double() / temperature).softmax(dim=0).tolist(), decision)

    own = Rounds(run, bag, round_patches=1).finish()
    at_random = Rounds(run, bag, round_patches=1, random_seed=RANDOM_SEED).finish()
    wanted, label, visited = class_of(own.logits), class_of(exhaustive.logits), Visited()
    scores = [look.score for look in exhaustive.looks]
    noise = [random_scores(each, RANDOM_SEED, step) for step, each in enumerate(scores)]
    valid = _existing(bag, len(scores))

    def answer(ranking: Sequence[Tensor], share: float, *, keep: bool) -> Float[Tensor, " c"]:
        masks = {
            step: _masked(each, exists, share, keep=keep)
            for step, (each, exists) in enumerate(zip(ranking, valid, strict=True))
        }
        logits: Tensor = run(MaskedBag(bag, masks, visited)).logits
        return (logits.double() / temperature).softmax(dim=0)

    kept = [answer(each, KEPT_SHARE, keep=True) for each in (scores, noise)]
    removed = [
        [answer(each, share, keep=False) for share in DELETED_SHARES] for each in (scores, noise)
    ]
    at = DELETED_SHARES.index(KEPT_SHARE)
    answers = (*kept, removed[0][at], removed[1][at])
    same = [answered(each.tolist(), decision) == label for each in answers]
    return Sufficiency(
        _first_from(own, wanted, class_of) or sum(own.rounds[-1].patches),
        _first_from(at_random, wanted, class_of),
        float(kept[0][label]),
        float(kept[1][label]),
        tuple(float(each[label]) for each in removed[0]),
        tuple(float(each[label]) for each in removed[1]),
        (same[0], same[1], same[2], same[3]),
    )


def _masked(
    scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"], share: float, *, keep: bool
) -> Bool[Tensor, " n"]:
    """Return the patches that are left; a single patch of a magnification is never removed."""
    if int(valid.sum()) < 2:
        return torch.ones(len(scores), dtype=torch.bool)
    return top_share(scores, valid, share) == keep


def top_share(
    scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"], share: float
) -> Bool[Tensor, " n"]:
    """Return which patches have the highest scores: a share of the existing ones, rounded up.

    At least one patch is on either side, if there are two.

    >>> top_share(torch.tensor([0.1, 0.5, 0.4]), torch.ones(3, dtype=torch.bool), 0.5).tolist()
    [False, True, True]
    """
    exists = int(valid.sum())
    count = min(math.ceil(share * exists - 1e-9), max(1, exists - 1))
    order = scores.cpu().masked_fill(~valid.cpu(), -1).argsort(descending=True, stable=True)
    top = torch.zeros(len(scores), dtype=torch.bool)
    top[order[:count]] = True
    return top


def _existing(bag: Bag, steps: int) -> list[Bool[Tensor, " _"]]:
    """Return which patches exist at each magnification. Nothing is read."""
    every: Bag = ExhaustiveBag(bag)
    found = [every.valid]
    for _ in range(steps - 1):
        every = every.zoom(None)
        found.append(every.valid)
    return found


def _first_from(
    prediction: Prediction, label: int, class_of: Callable[[Tensor], int]
) -> int | None:
    """Return after how many patches the class is, and stays, a label; None if it is not."""
    found = None
    for each in reversed(prediction.rounds):
        if class_of(each.logits) != label:
            break
        found = sum(each.patches)
    return found
