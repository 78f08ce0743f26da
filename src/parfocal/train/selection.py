"""Whether validation slides can measure what the choice of the best epoch depends on."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from parfocal.dataset.cohort import CohortSlide
from parfocal.tasks import Task

logger = logging.getLogger(__name__)

NO_GRADIENT = 1e-9  # of a loss that does not depend on the logits, up to rounding
ADVICE = "Raise train.val_fraction, or move such slides to val in the column split"


def can_select(task: Task, slides: Sequence[CohortSlide]) -> bool:
    """Return whether the loss of validation slides depends on what a model predicts for them.

    Cox's loss does not if no slide has an event: it is 0 in every epoch, and no epoch is the best.

    Args:
        task: the task, fitted to the training slides.
        slides: the validation slides; at least one.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (len(slides), len(task.output_names))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    loss = task.loss(logits, torch.stack([task.encode(slide) for slide in slides]))
    (gradient,) = torch.autograd.grad(loss, logits)
    return bool(gradient.abs().max() > NO_GRADIENT)


def warn_unmeasured(run: Path, task: Task, slides: Sequence[CohortSlide]) -> None:
    """Log what the validation slides of a run cannot measure, the consequence, and what to do.

    Args:
        run: folder of the run.
        task: the task, fitted to the training slides.
        slides: the validation slides.
    """
    found = task.unmeasured(slides) if slides else ()
    if not found:
        return
    if can_select(task, slides):
        follows = "the best epoch is chosen without it, and scores that need it are undefined"
    else:
        follows = (
            "the validation loss is the same in every epoch: training does not stop early, and "
            "the weights of the last epoch are kept"
        )
    logger.warning("%s: %s, so %s. %s.", run, "; ".join(found), follows, ADVICE)
