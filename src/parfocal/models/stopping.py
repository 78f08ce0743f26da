"""The rule by which a model stops visiting a slide: when its answer has settled.

After each round, the model has an answer from the patches visited so far. Let c be its class: the
most probable one or, with two classes, the one that a threshold gives. The answer is settled if the
probability of c is above the threshold of c. The threshold is the highest probability of c, at any
round, on validation slides to which the model gives another class after all rounds; or one of the
next highest, if some errors are allowed. It is at least a given probability, so that an answer that
settled is a clear one.

The answer can settle only when patches of the highest magnification have been visited: before, the
model has not looked where it wants to.

Source: ours; the thresholds are those of split conformal prediction (Vovk et al., "Algorithmic
    Learning in a Random World", 2005). A new slide whose final class is not c exceeds the k-th
    highest of n such values with a probability of at most k / (n + 1), if it is drawn like them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from parfocal.prediction import Round
from parfocal.validation import validate


@dataclass(frozen=True)
class StoppingRule:
    """When a model stops visiting a slide.

    Args:
        thresholds: for each class, in the order of the logits, the probability above which the
            answer is settled; 1 for a class that never settles.
        round_patches: number of patches that a round visits.
        magnifications: number of magnifications that have to be visited, at least in part, before
            the answer can settle.
        max_disagreement: largest share of slides, on average over draws of validation slides, on
            which the model may stop with another class than after all rounds.
        slides: number of slides that the rule was calibrated on, by the class that the model gives
            after all rounds.
        disagreements: number of these slides on which the rule changes the class.
        share_patches: patches that the rule visits on these slides, as a share of those of all
            rounds.
        files: fingerprints of these slides, if they are from a cohort other than that of the run.
        decision: for two classes, the lowest probability of the second one at which it is the
            answer; None if the answer is the most probable class.
        temperature: number that the logits are divided by.
        k: number of patches that the model zoomed into at each zoom; empty if it has no such
            number, and in files written before the rule had it.
    """

    thresholds: tuple[float, ...]
    round_patches: int
    max_disagreement: float
    magnifications: int = 1
    slides: dict[str, int] = field(default_factory=dict)
    disagreements: int = 0
    share_patches: float = 1.0
    files: tuple[str, ...] = ()
    decision: float | None = None
    temperature: float = 1.0
    k: tuple[int, ...] = ()

    @property
    def can_stop(self) -> bool:
        """Whether the answer can settle before all rounds for any class."""
        return any(threshold < 1 for threshold in self.thresholds)

    def __call__(self, rounds: Sequence[Round]) -> str | None:
        """Return the reason to stop after a round; None to go on."""
        if len(rounds[-1].patches) < self.magnifications:
            return None
        probabilities = (rounds[-1].logits.double() / self.temperature).softmax(dim=0).tolist()
        if not is_settled(probabilities, self.thresholds, self.decision):
            return None
        found = probabilities[answered(probabilities, self.decision)]
        return f"settled after round {len(rounds) - 1}: a probability of {found:.2f}"

    @classmethod
    def parse(cls, values: object) -> "StoppingRule":
        """Return the rule that a file describes.

        Raises:
            ValueError: a value is missing or of the wrong type.
        """
        return validate(cls, values)


def answered(probabilities: Sequence[float], decision: float | None = None) -> int:
    """Return the position of the class of an answer.

    >>> answered((0.7, 0.3)), answered((0.7, 0.3), decision=0.2)
    (0, 1)

    Args:
        probabilities: probability of each class.
        decision: for two classes, the lowest probability of the second one at which it is the
            answer; None if the answer is the most probable class.
    """
    if decision is not None:
        return int(probabilities[1] >= decision)
    return max(range(len(probabilities)), key=probabilities.__getitem__)


def is_settled(
    probabilities: Sequence[float], thresholds: Sequence[float], decision: float | None = None
) -> bool:
    """Return whether the probability of the class of an answer is above its threshold."""
    label = answered(probabilities, decision)
    return probabilities[label] > thresholds[label]


# For each slide: for each round, the class probabilities.
Answers = Sequence[Sequence[Sequence[float]]]


def choose_thresholds(
    answers: Answers,
    max_disagreement: float,
    min_probability: float = 0.0,
    decision: float | None = None,
) -> tuple[float, ...]:
    """Return the threshold of each class.

    A class gets no threshold below 1 if there are too few slides of other classes to show that
    stopping is right so often: at least `slides_needed` are.

    Args:
        answers: answers after each round, of validation slides.
        max_disagreement: largest share of slides on which the class may change, above 0.
        min_probability: smallest threshold.
        decision: see `answered`.
    """
    num_classes = len(answers[0][0])
    final = [answered(rounds[-1], decision) for rounds in answers]
    per_class = max_disagreement / (num_classes - 1)  # a slide can settle on any of the others
    thresholds = []
    for label in range(num_classes):
        highest = sorted(
            (
                max((p[label] for p in rounds[:-1] if answered(p, decision) == label), default=0.0)
                for rounds, last in zip(answers, final, strict=True)
                if last != label
            ),
            reverse=True,
        )
        rank = math.floor(per_class * (len(highest) + 1) + 1e-9)  # k of k / (n + 1)
        thresholds.append(1.0 if rank < 1 else max(min_probability, highest[rank - 1]))
    return tuple(thresholds)


def slides_needed(max_disagreement: float, num_classes: int) -> int:
    """Return how many slides of other classes are needed for a class to settle early.

    >>> slides_needed(0.05, 2), slides_needed(0.05, 3)
    (19, 39)
    """
    return math.ceil((num_classes - 1) / max_disagreement - 1e-9) - 1


def stopping_round(
    rounds: Sequence[Sequence[float]], thresholds: Sequence[float], decision: float | None = None
) -> int:
    """Return the first round after which the answer is settled, or else the last."""
    settled = (n for n, each in enumerate(rounds) if is_settled(each, thresholds, decision))
    return next(settled, len(rounds) - 1)


def calibrate(
    answers: Answers,
    patches: Sequence[Sequence[int]],
    labels: Sequence[str],
    *,
    round_patches: int,
    max_disagreement: float,
    min_probability: float = 0.0,
    magnifications: int = 1,
    decision: float | None = None,
) -> StoppingRule:
    """Return the rule for the answers of a model on validation slides.

    Args:
        answers: for each slide, the class probabilities after each round from which on the answer
            can settle.
        patches: for each slide, the number of patches visited after each of these rounds.
        labels: the classes.
        round_patches: number of patches that a round visits.
        max_disagreement: largest share of slides on which the class may change.
        min_probability: probability that an answer that settles has at least.
        magnifications: number of magnifications that are visited before the answer can settle.
        decision: see `answered`.
    """
    thresholds = choose_thresholds(answers, max_disagreement, min_probability, decision)
    stops = [stopping_round(each, thresholds, decision) for each in answers]
    final = [answered(each[-1], decision) for each in answers]
    changed = [
        answered(each[stop], decision) != last
        for each, stop, last in zip(answers, stops, final, strict=True)
    ]
    visited = sum(each[stop] for each, stop in zip(patches, stops, strict=True))
    return StoppingRule(
        thresholds,
        round_patches,
        max_disagreement,
        magnifications,
        slides={label: final.count(number) for number, label in enumerate(labels)},
        disagreements=sum(changed),
        share_patches=visited / max(1, sum(each[-1] for each in patches)),
        decision=decision,
    )
