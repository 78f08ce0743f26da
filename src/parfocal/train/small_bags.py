"""Train on small bags of features with one thread of torch.

With several threads, the parts of a small matrix product take less time than the threads spend
waiting for each other, especially if another program uses a core: then every wait lasts until the
system runs the thread again. `benchmarks/threads.py` measures this.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import CountsPatches
from parfocal.threads import chosen_threads

SMALL = 2**18  # features of all patches of a bag, such as 200 patches of 1280 features

logger = logging.getLogger(__name__)


def largest_bag(
    slides: Sequence[CohortSlide],
    inputs: CountsPatches,
    in_dims: Sequence[int],
    *,
    zooms: bool,
) -> int:
    """Return the number of features of the largest bag.

    Args:
        slides: slides of the training.
        inputs: object that opens the slides.
        in_dims: number of features per patch at each magnification.
        zooms: whether only the patches of the lowest magnification are certain to be visited.
    """
    used = in_dims[:1] if zooms else in_dims
    sizes = [
        sum(count * dim for count, dim in zip(inputs.count_patches(slide), used, strict=False))
        for slide in slides
    ]
    return max(sizes, default=0)


@contextmanager
def threads_for(size: float, device: torch.device) -> Iterator[None]:
    """Use one thread of torch within a block, if bags are small and nobody has chosen a number.

    Args:
        size: number of features of the largest bag; infinite if it is unknown.
        device: device of the training.
    """
    usual = torch.get_num_threads()
    if device.type != "cpu" or size > SMALL or usual == 1 or chosen_threads() is not None:
        yield
        return
    logger.info("small bags: training with one thread; --threads %d uses more", usual)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
