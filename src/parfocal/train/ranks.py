"""The processes that train one model together, each on a device of its own, and what they exchange.

Each process holds the whole model and optimizer. Before each step of the optimizer, the gradients
are summed over all processes, so that every process makes the same step. A batch of a model that
takes pixels is divided among the processes; each of them computes the objective from the outputs
for all slides, and normalizes with the statistics of all slides. The slides of a step of a model
that takes features are distributed over the processes one by one. In both cases, the gradients are
the same as those of a single process.

`DistributedDataParallel` is not used: it divides gradients by the number of processes, even if they
have different numbers of slides, and waits forever for a process that has no slide, or whose slide
does not use all weights.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn

from parfocal.models.layers.shared_norm import Total
from parfocal.prediction import Prediction

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
PATIENCE = timedelta(days=7)  # the parent process notices a process that has died

T = TypeVar("T")


class Ranks:
    """The processes that train one model together, as seen from one of them.

    Args:
        rank: number of this process, from 0.
        count: number of processes.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self._active = 1  # processes that work on the current batch: the first ones
        self._groups: dict[int, dist.ProcessGroup] = {}

    @property
    def are_several(self) -> bool:
        """Whether there is more than one process."""
        return self.count > 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def connect(self, store: Path, device: torch.device) -> None:
        """Connect to the other processes, which do the same; return when all are connected.

        Args:
            store: file through which the processes find each other; it does not exist yet.
            device: device of this process.
        """
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, LOOPBACK)  # all processes are on this machine
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=dist.FileStore(str(store), self.count),  # type: ignore[attr-defined]
            rank=self.rank,
            world_size=self.count,
            timeout=PATIENCE,
        )
        for size in range(2, self.count + 1):
            self._groups[size] = dist.new_group(range(size), timeout=PATIENCE)

    def part(self, batch: Sequence[T]) -> Sequence[T]:
        """Return the part of a batch that this process has; parts differ in size by at most 1."""
        start, end = self._bounds(len(batch))
        return batch[start:end]

    @contextmanager
    def working_on(self, num_slides: int) -> Iterator[None]:
        """Exchange statistics among the processes that have slides of a batch, within a block.

        Args:
            num_slides: number of slides of the batch.
        """
        usual, self._active = self._active, min(self.count, num_slides)
        try:
            yield
        finally:
            self._active = usual

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Exchange nothing within a block."""
        with self.working_on(1):
            yield

    def total(self) -> Total:
        """Return the sum over the processes that have slides of the current batch."""
        if self._active == 1:
            return _unchanged
        group = self._groups[self._active]

        def total(tensor: Tensor) -> Tensor:
            dist.all_reduce(tensor, group=group)
            return tensor

        return total

    def join(
        self, prediction: Prediction, targets: Tensor, num_slides: int
    ) -> tuple[Prediction, Tensor]:
        """Return the output and the targets of a whole batch, given those of a part.

        Gradients flow back only to the part of this process.

        Args:
            prediction: output for the slides of this process.
            targets: their targets.
            num_slides: number of slides of the batch.
        """
        whole = replace(
            prediction,
            logits=self._rows(prediction.logits, num_slides),
            terms={name: self._rows(term, num_slides) for name, term in prediction.terms.items()},
            members=(),
        )
        return whole, self._rows(targets, num_slides)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients over all processes; a weight that none of them used gets no gradient.

        Args:
            parameters: the weights, in the same order in every process.
        """
        trained = [each for each in parameters if each.requires_grad]
        used = torch.tensor([each.grad is not None for each in trained]).to(trained[0])
        own = [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]
        flat = torch.cat([*(each.flatten() for each in own), used])
        dist.all_reduce(flat)
        *sums, used = torch.split(flat, [*(each.numel() for each in trained), len(trained)])
        for weight, gradient, count in zip(trained, sums, used.tolist(), strict=True):
            weight.grad = gradient.view_as(weight) if count else None

    def copy_buffers(self, model: nn.Module) -> None:
        """Copy the running statistics of the first process, which has a part of every batch."""
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)

    def gather(self, value: T) -> list[T]:
        """Return a value of each process, in the order of the processes."""
        if not self.are_several:
            return [value]
        values: list[T | None] = [None] * self.count
        dist.all_gather_object(values, value)
        return [each for each in values if each is not None]

    def _bounds(self, size: int) -> tuple[int, int]:
        """Return where the part of this process begins and ends; the first parts are larger."""
        each, larger = divmod(size, self.count)
        start = self.rank * each + min(self.rank, larger)
        return start, start + each + (self.rank < larger)

    def _rows(self, own: Shaped[Tensor, "b *_"], num_slides: int) -> Shaped[Tensor, "n *_"]:
        start, end = self._bounds(num_slides)
        if len(own) != end - start:
            raise ValueError(f"{len(own)} rows for {end - start} slides.")
        rows: Tensor = _Rows.apply(own, start, num_slides, self.total())  # type: ignore[no-untyped-call]
        return rows


ALONE = Ranks()


class _Rows(torch.autograd.Function):
    """The rows of all processes; gradients flow back only to the rows of this process."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, own: Tensor, start: int, count: int, total: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the rows of all processes."""
        ctx.bounds = start, start + len(own)
        rows = own.new_zeros((count, *own.shape[1:]))
        rows[start : start + len(own)] = own
        return total(rows)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        """Return the gradient of the rows of this process."""
        start, end = ctx.bounds
        return gradient[start:end], None, None, None


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor
