"""Choose how a batch is run so that a training step fits into memory, or refuse the training."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from parfocal.models.contract import RunsInPasses
from parfocal.models.layers.passes import Passes, StepMemory
from parfocal.settings import TrainSettings
from parfocal.train.available_memory import available_memory, memory_in_use
from parfocal.train.folder import RunError

GB, FREE_MEMORY = 10**9, "free memory"
DEFAULT_RAM_GB = 12.0
WEIGHT_COPIES = 3  # the gradients, and two states of each optimizer that can be chosen
OVERHEAD = 1.15  # of the allocator, and of small tensors that are not counted
RUNTIME_BYTES = 400_000_000  # of libraries, threads and decoded tiles, once training runs

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """Memory that training may use.

    Args:
        limit: bytes that this process may use in total.
        reason: where the limit comes from, as a noun phrase for people.
        fixed: bytes that it uses whatever the size of a batch.
    """

    limit: int
    reason: str
    fixed: int


@dataclass(frozen=True)
class MemoryPlan:
    """How the batches of a training are run.

    Args:
        batch_size: number of slides in the largest batch.
        passes: how the networks are run on it.
        step: memory of the activations.
        budget: memory that training may use.
    """

    batch_size: int
    passes: Passes
    step: StepMemory
    budget: Budget

    @property
    def needed(self) -> int:
        """Estimated memory of this process at its peak, in bytes."""
        activations = self.step.total(self.batch_size, self.passes)
        return self.budget.fixed + round(OVERHEAD * activations)

    @property
    def fits(self) -> bool:
        """Whether the estimate is within the limit."""
        return self.needed <= self.budget.limit

    @property
    def summary(self) -> str:
        """The plan, in a line for people."""
        how = "at once"
        if self.passes.slides is not None and self.passes.slides < self.batch_size:
            how = f"in parts of {self.passes.slides}"
        recomputed = "on" if self.passes.gradient_checkpointing else "off"
        return (
            f"batch of {self.batch_size} {how}, gradient checkpointing {recomputed}: about "
            f"{_gb(self.needed)} of {_gb(self.budget.limit)} ({self.budget.reason})"
        )

    def apply(self, model: nn.Module) -> None:
        """Set how the model is run."""
        assert isinstance(model, RunsInPasses)
        model.set_passes(self.passes)


def plan_memory(
    model: nn.Module,
    settings: TrainSettings,
    *,
    batch_size: int,
    device: torch.device,
    processes: int = 1,
) -> MemoryPlan:
    """Choose how to run the batches of a model, and set the model accordingly.

    The whole batch is run at once if that fits; otherwise, activations are recomputed in the
    backward pass, in as many parts as needed.

    Args:
        model: model with the trait `runs_in_passes`.
        settings: settings of the training.
        batch_size: number of slides in the largest batch, or in the part of it that this process
            has.
        device: device of the training.
        processes: number of processes that train the model together; they share the RAM.

    Raises:
        RunError: no choice fits into memory.
    """
    assert isinstance(model, RunsInPasses)
    step, budget = model.step_memory(), _budget(model, settings, device, processes)
    choices = list(_choices(batch_size, device, always=model.gradient_checkpointing))
    plans = [MemoryPlan(batch_size, passes, step, budget) for passes in choices]
    plan = next((plan for plan in plans if plan.fits), None)
    if plan is None:
        raise RunError(_refusal(plans[-1], settings))
    plan.apply(model)
    logger.info("%s", plan.summary)
    return plan


def _choices(batch_size: int, device: torch.device, *, always: bool) -> Iterator[Passes]:
    """Yield ways to run a batch, the fastest first.

    Args:
        batch_size: number of slides in the batch.
        device: device of the training.
        always: whether activations are recomputed in any case.
    """
    if not always:
        yield Passes()
    # On a CPU, larger parts are no faster.
    slides = batch_size if device.type != "cpu" else 1
    while slides > 1:
        yield Passes(slides, gradient_checkpointing=True)
        slides = -(-slides // 2)
    yield Passes(1, gradient_checkpointing=True)


def _budget(
    model: nn.Module, settings: TrainSettings, device: torch.device, processes: int
) -> Budget:
    available, wanted = available_memory(device), settings.max_memory_gb
    reason = "train.max_memory_gb"
    if wanted is None and device.type == "cpu":
        wanted, reason = DEFAULT_RAM_GB, "the default of train.max_memory_gb"
    limit = available if wanted is None else round(wanted * GB)
    if limit is None or (available is not None and available <= limit):
        limit, reason = available or round(DEFAULT_RAM_GB * GB), FREE_MEMORY
    if processes > 1 and device.type == "cpu":
        limit, reason = limit // processes, f"a share of {reason}"
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    trained = sum(
        each.numel() * each.element_size() for each in model.parameters() if each.requires_grad
    )
    copies = WEIGHT_COPIES + settings.lookahead
    fixed = memory_in_use(device) + copies * trained
    fixed += RUNTIME_BYTES if device.type == "cpu" else weights
    return Budget(limit, reason, fixed)


def _refusal(smallest: MemoryPlan, settings: TrainSettings) -> str:
    """Return the message for a plan that does not fit, with what to set."""
    budget, needed = smallest.budget, smallest.needed
    sizes = range(smallest.batch_size - 1, 0, -1)
    fitting = next((size for size in sizes if replace(smallest, batch_size=size).fits), None)
    advice = []
    if fitting is not None:
        times = -(-smallest.batch_size // fitting) * settings.accumulate_grad_batches
        advice.append(f"set train.batch_size={fitting} and train.accumulate_grad_batches={times}")
    else:
        advice.append("choose a smaller network (model.backbone) or smaller pictures")
    if budget.reason.endswith(FREE_MEMORY):
        advice.append(f"train where {_gb(needed)} are free")
    else:
        advice.append(f"set train.max_memory_gb={math.ceil(needed / GB)}")
    return (
        f"a batch of {smallest.batch_size} slides needs about {_gb(needed)}, even in parts of 1 "
        f"with gradient checkpointing, and the limit is {_gb(budget.limit)} ({budget.reason}): "
        f"{', or '.join(advice)}."
    )


def _gb(size: int) -> str:
    return f"{size / GB:.1f} GB"
