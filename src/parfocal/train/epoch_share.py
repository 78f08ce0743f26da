"""What a process contributes to an epoch of a training on several devices."""

from collections.abc import Sequence
from dataclasses import dataclass

from parfocal.dataset.cohort import CohortSlide
from parfocal.train.ranks import Ranks
from parfocal.train.validation import ValidationOutput


@dataclass(frozen=True)
class EpochShare:
    """What one process has done in an epoch.

    Args:
        losses: loss of each training slide.
        outputs: outputs for validation slides.
        patches_encoded: number of patches encoded.
        failed: reason of each slide that could not be read, by slide id.
        is_stopping: whether the process was asked to stop between two epochs.
    """

    losses: Sequence[float]
    outputs: Sequence[ValidationOutput]
    patches_encoded: int
    failed: dict[str, str]
    is_stopping: bool

    def joined(self, others: Sequence["EpochShare"], slides: Sequence[CohortSlide]) -> "EpochShare":
        """Return the shares of all processes together.

        Args:
            others: the other shares.
            slides: validation slides, in the order that the outputs are put in.
        """
        shares = (self, *others)
        order = {slide.slide_id: number for number, slide in enumerate(slides)}
        outputs = [output for share in shares for output in share.outputs]
        return EpochShare(
            [loss for share in shares for loss in share.losses],
            sorted(outputs, key=lambda output: order[output.slide.slide_id]),
            sum(share.patches_encoded for share in shares),
            {name: why for share in shares for name, why in share.failed.items()},
            any(share.is_stopping for share in shares),
        )


def joined_share(ranks: Ranks, own: EpochShare, slides: Sequence[CohortSlide]) -> EpochShare:
    """Return what all processes have done in an epoch.

    Args:
        ranks: the processes.
        own: what this process has done.
        slides: validation slides.
    """
    if not ranks.are_several:
        return own
    first, *others = ranks.gather(own)
    return first.joined(others, slides)
