"""Choose how many images a network encodes at once, by the memory of its device."""

from collections.abc import Callable

import torch
from torch import Tensor

PROBE = 4  # images encoded to measure the memory that one needs
USED_SHARE = 0.8  # of the free memory; the rest is for fragmentation and for other work
# Parts of the messages of torch and of CUDA's libraries when memory is used up.
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "not enough memory")


class PatchMemoryError(Exception):
    """There is no memory for a single patch; another slide may need less beside it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in OUT_OF_MEMORY)


def fitting_batch(run: Callable[[Tensor], object], images: Tensor, *, most: int) -> int:
    """Return how many images fit into the free memory of a CUDA device.

    Args:
        run: function that encodes images.
        images: `PROBE` images on the device.
        most: largest number to return.

    Returns:
        At least 1, even if one image may not fit; above 8, a multiple of 8.
    """
    device = images.device
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        run(images)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return 1
    needed = max(1, torch.cuda.max_memory_allocated(device) - before) / len(images)
    free = torch.cuda.mem_get_info(device)[0]
    # Memory that torch holds for this process and does not use is free, too.
    free += torch.cuda.memory_reserved(device) - before
    count = min(most, int(USED_SHARE * free / needed))
    return max(1, count if count < 8 else count // 8 * 8)
