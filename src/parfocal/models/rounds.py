"""Visit the patches of a slide in rounds, and answer after each round.

The patches that a model zooms into at one magnification are visited most wanted first, a few in
each round; then those of the next magnification. So after the last round, the model has visited
what it visits at once without rounds. A model whose answer has settled need not visit the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from parfocal.bag import Bag
from parfocal.models.layers.choosing import TopK, one_hots
from parfocal.models.limited_bag import LimitedBag, Visited, random_scores
from parfocal.prediction import Look, Prediction, Round

ROUND_PATCHES = 4  # the children of one patch where the magnification doubles

RunModel = Callable[[Bag], Prediction]
# The answers so far, and the parts of the model's own choice that were visited -> why to stop.
StopCheck = Callable[[Sequence[Round]], str | None]


class Rounds:
    """Runs a model on a slide round by round.

    Args:
        run: runs the model on a bag.
        bag: the bag of the slide, at the lowest magnification.
        round_patches: number of patches that a round visits, rounded to whole parents and at least
            one.
        random_seed: seed of a random choice of as many patches; None for the choice of the model.
    """

    def __init__(
        self,
        run: RunModel,
        bag: Bag,
        *,
        round_patches: int = ROUND_PATCHES,
        random_seed: int | None = None,
    ) -> None:
        self._run, self._bag = run, bag
        self._round_patches, self._random_seed = round_patches, random_seed
        self._visited = Visited()
        self._parents: dict[int, int] = {}  # by step: number of patches zoomed into so far
        self._added: dict[int, list[Tensor]] = {}  # by step: rows of the patches of each round
        self._pending: tuple[int, int] | None = None  # step of the next round, and its parents
        self.rounds: list[Round] = []
        self.prediction: Prediction | None = None
        self.asked = False  # whether the model has asked which patches may be visited

    def until(self, stop: StopCheck) -> Prediction:
        """Visit rounds until a reason to stop, or until the model has visited all it wants.

        Args:
            stop: returns the reason to stop after a round, or None.
        """
        reason = None
        while self._next():
            reason = stop(self.rounds)
            if reason is not None:
                break
        assert self.prediction is not None
        prediction = self.prediction
        if reason is not None and self._pending is not None:
            prediction = replace(prediction, stop_reason=reason)
        looks = tuple(self._with_rounds(step, look) for step, look in enumerate(prediction.looks))
        return replace(prediction, looks=looks, rounds=tuple(self.rounds))

    def finish(self) -> Prediction:
        """Visit all that the model wants, and return its answer."""
        return self.until(lambda _: None)

    def choose(
        self, bag: Bag, step: int, topk: TopK, scores: Tensor, valid: Tensor
    ) -> Tensor | None:
        """Return one row per patch to zoom into so far; None if it is none."""
        self.asked = True
        if self._random_seed is not None:
            scores = random_scores(scores, self._random_seed, step)
        wanted = topk(scores, valid)
        so_far = self._parents.get(step, 0)
        if so_far >= len(wanted):
            return wanted
        if self._pending is None:
            children = len(bag.zoom(None).rows) // len(bag.rows)
            self._pending = (step, max(1, self._round_patches // children))
        if so_far == 0:
            return None
        positions = wanted.argmax(dim=1)  # ascending
        order = positions[scores[positions].argsort(descending=True, stable=True)]
        return one_hots(order[:so_far], scores)

    def _next(self) -> bool:
        """Visit one more round; return False if there was nothing left to visit."""
        if self.prediction is not None:
            if self._pending is None:
                return False
            step, parents = self._pending
            self._parents[step] = self._parents.get(step, 0) + parents
        self._pending = None
        self._visited.num_existing.clear()
        self.prediction = self._run(LimitedBag(self._bag, self, self._visited))
        self._note(self.prediction)
        return True

    def _note(self, prediction: Prediction) -> None:
        """Keep the answer of a round, and in which round each patch was visited first."""
        number = len(self.rounds)
        for step, look in enumerate(prediction.looks):
            known = self._added.setdefault(step, [])
            known.extend([look.rows[:0]] * (number - len(known)))
            before = torch.cat([look.rows[:0], *known])
            known.append(look.rows[~torch.isin(look.rows, before)])
        patches = tuple(self._visited.num_existing.values())
        self.rounds.append(Round(patches, prediction.logits.detach().cpu()))

    def _with_rounds(self, step: int, look: Look) -> Look:
        """Return a look with the round of each patch."""
        number = torch.zeros(len(look.rows), dtype=torch.int64)
        for each, rows in enumerate(self._added[step]):
            number[torch.isin(look.rows, rows)] = each
        return replace(look, rounds=number)


class Deadline:
    """A check that stops before a deadline, by how long the longest round took.

    Args:
        seconds: limit in seconds.
        clock: returns the seconds since the slide was opened.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock = seconds, clock
        self._last: float | None = None  # end of the round before
        self._longest = 0.0

    def __call__(self, rounds: Sequence[Round]) -> str | None:
        """Return the reason to stop if the next round may end after the deadline."""
        now = self._clock()
        if self._last is not None:  # the first round reads the lowest magnification, others do not
            self._longest = max(self._longest, now - self._last)
        self._last = now
        if now + self._longest < self._seconds:
            return None
        if now >= self._seconds:
            return f"after {now:.2f} s, the limit of {self._seconds:.3g} s was reached"
        return f"after {now:.2f} s, another round may end after the limit of {self._seconds:.3g} s"
