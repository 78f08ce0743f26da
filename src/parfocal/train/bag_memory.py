"""Refuse a training whose largest bag of features does not fit into memory, before it starts.

A model that takes features runs on all patches of a slide at once, and what it needs grows with
their number. How fast is measured on two small bags: the bytes that autograd keeps for the backward
pass. Without this check, the operating system ends the process without a message.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from parfocal.bag import StoredBag
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import CountsPatches
from parfocal.models.contract import Adversarial, run_model
from parfocal.models.covariates import zero_covariates
from parfocal.train.available_memory import available_memory, memory_in_use
from parfocal.train.folder import RunError

GB = 10**9
# Peak of a training step, by what autograd keeps: 1.15 for TransMIL and 1.23 for CLAM, as measured
# by benchmarks/bag_memory.py; the rest is a margin.
PEAK_FACTOR = 1.3
# Bytes per patch that no model reaches, in units of its features (or of 512 numbers, if more). What
# fits with this much is not measured.
MOST_FEATURES, LEAST_WIDTH = 100, 512
PROBE_PATCHES = 2048  # fewer are kept whole by models that divide large bags


def refuse_large_bags(
    slides: Sequence[CohortSlide],
    inputs: CountsPatches,
    build: Callable[[], nn.Module],
    *,
    in_dims: Sequence[int],
    device: torch.device,
    processes: int = 1,
) -> None:
    """Refuse slides whose patches need more memory than is free in a training step.

    Args:
        slides: training slides.
        inputs: opens them.
        build: function that builds a model like the one to train.
        in_dims: number of features per patch at each magnification.
        device: device of the training.
        processes: number of processes that train the model together; they share the RAM.

    Raises:
        RunError: a slide does not fit.
    """
    available = available_memory(device)
    if available is None or not slides:
        return
    free = available - memory_in_use(device)
    if device.type == "cpu":
        free //= processes
    patches = {slide.slide_id: inputs.count_patches(slide) for slide in slides}
    largest = max(patches, key=lambda slide_id: sum(patches[slide_id]))
    counts = patches[largest]
    widths = [max(dim, LEAST_WIDTH) for dim in in_dims]
    most = sum(count * width for count, width in zip(counts, widths, strict=True))
    if 4 * MOST_FEATURES * most <= free:
        return
    needed = counts[0] * bytes_per_patch(build(), in_dims, _children(counts))
    if needed > free:
        raise RunError(_refusal(largest, counts, in_dims, needed, free))


def bytes_per_patch(model: nn.Module, in_dims: Sequence[int], children: Sequence[int]) -> float:
    """Estimate what one more patch at the lowest magnification adds to the memory of a step.

    Args:
        model: model to run on small bags of random features; its state may change.
        in_dims: number of features per patch at each magnification.
        children: mean number of children of a patch at each magnification but the highest.

    Returns:
        Bytes, those of the patches inside it included.
    """
    model.train()
    if isinstance(model, Adversarial):
        model.set_slide(0)
    few = max(32, PROBE_PATCHES // prod(children))
    with torch.random.fork_rng(devices=[]):  # dropout must not change the training
        small, large = (
            _bytes_kept(model, _random_bag(count, in_dims, children)) for count in (few, 2 * few)
        )
    features = 4 * in_dims[0]
    return PEAK_FACTOR * max((large - small) / few, features)


def _children(counts: Sequence[int]) -> list[int]:
    """Return the mean number of children of a patch, rounded up, at each magnification."""
    return [max(1, -(-below // max(1, above))) for above, below in pairwise(counts)]


def _random_bag(count: int, in_dims: Sequence[int], children: Sequence[int]) -> StoredBag:
    generator, tables = torch.Generator().manual_seed(0), []
    for dim, times in zip(in_dims, (1, *children), strict=True):
        count *= times
        tables.append(torch.randn(count, dim, generator=generator))
    return StoredBag(tables, cells=_cells)


def _cells(_step: int, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n 2"]:
    """Return (column, row) of patches in a grid 64 wide."""
    return np.stack([rows % 64, rows // 64], axis=1)


def _bytes_kept(model: nn.Module, bag: StoredBag) -> int:
    """Return the bytes that autograd keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        prediction = run_model(model, [bag], covariates=zero_covariates(model))
    del prediction
    return sum(kept.values())


def _refusal(
    slide_id: str, counts: Sequence[int], in_dims: Sequence[int], needed: float, free: int
) -> str:
    patches = " and ".join(f"{count:,}" for count in counts)
    features = " and ".join(str(dim) for dim in dict.fromkeys(in_dims))
    return (
        f"slide {slide_id}: {patches} patches of {features} features need about "
        f"{needed / GB:.1f} GB in a training step, and {max(0, free) / GB:.1f} GB are free. Train "
        "at a lower magnification (slide.magnifications) or with an encoder of fewer features, "
        "choose a model that needs less (abmil, or zoommil, which zooms), remove the slide, or "
        f"train where {needed / GB:.1f} GB are free."
    )
