"""The bill: what looking at a slide has cost, counted where it happens.

A `CostMeter` travels with a slide. Whoever decodes pixels, encodes a patch or runs a model writes
on it; nothing on it is computed from a formula.
"""

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry

Stage = Literal["open", "tissue", "read", "encode", "model"]
# Torch has a formula for fused attention on a GPU alone; on a CPU it is the same products.
ON_A_GPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        torch.ops.aten._scaled_dot_product_flash_attention
    )
}
STAGES: tuple[Stage, ...] = ("open", "tissue", "read", "encode", "model")


@dataclass(frozen=True)
class ExhaustiveCost:
    """What looking at everything at one magnification would have cost on the same slide.

    Args:
        magnification: the sharpest one looked at.
        patches: those that pass the same tissue test at that magnification.
        descendants: of the coarse patches that were kept, those that exist there.
        macs: of encoding `patches`.
        pixels: what reading `patches` would ask of the stored level.
    """

    magnification: float
    patches: int
    descendants: int
    macs: int
    pixels: int


@dataclass(frozen=True)
class Cost:
    """A bill, closed.

    Args:
        patches: encoded, by step.
        pixels_decoded: asked of a stored level; a pixel asked for twice counts twice.
        bytes_read: of encoded pixels, from the file, where the reader tells; else None.
        macs: multiply-accumulates, by torch's own counter.
        seconds: by stage, summed over threads, so that `read` may overlap `encode`;
            and `total`, by the clock on the wall.
        exhaustive: the same slide looked at everywhere; None where that was not asked.
    """

    patches: tuple[int, ...]
    pixels_decoded: int
    bytes_read: int | None
    macs: int
    seconds: dict[str, float]
    exhaustive: ExhaustiveCost | None = None

    @property
    def share_patches(self) -> float | None:
        """Patches encoded, over those of looking at everything."""
        if self.exhaustive is None or self.exhaustive.patches == 0:
            return None
        return sum(self.patches) / self.exhaustive.patches

    @property
    def share_pixels(self) -> float | None:
        """Pixels decoded, the search for tissue included, over those of looking at everything."""
        if self.exhaustive is None or self.exhaustive.pixels == 0:
            return None
        return self.pixels_decoded / self.exhaustive.pixels

    @property
    def share_macs(self) -> float | None:
        """MACs, over those of looking at everything."""
        if self.exhaustive is None or self.exhaustive.macs == 0:
            return None
        return self.macs / self.exhaustive.macs


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations by torch's own formulas.

    Torch's own counter gives the same number, but first loads its compiler, for a second.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or any mode would load the compiler

    def __torch_dispatch__(
        self,
        func: OpOverload[..., object],
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        named = func.overloadpacket
        formula = flop_registry.get(ON_A_GPU.get(named, named))
        if formula is None:
            with self:  # an operation made of others is counted by its parts
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = func(*args, **(kwargs or {}))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


class CostMeter:
    """A ledger that any thread may write on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = time.perf_counter()
        self._patches: dict[int, int] = {}
        self._pixels = 0
        self._bytes: int | None = None
        self._macs = 0
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def add_patches(self, step: int, count: int) -> None:
        """Write down `count` patches encoded at a step, 0 the lowest magnification."""
        with self._lock:
            self._patches[step] = self._patches.get(step, 0) + count

    def add_pixels(self, pixels: int) -> None:
        """Write down pixels asked of a stored level."""
        with self._lock:
            self._pixels += pixels

    def add_bytes(self, count: int) -> None:
        """Write down bytes of encoded pixels that the file gave."""
        with self._lock:
            self._bytes = (self._bytes or 0) + count

    def add_macs(self, macs: int) -> None:
        """Write down multiply-accumulates."""
        with self._lock:
            self._macs += macs

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Write down the seconds of a block of code."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(stage, time.perf_counter() - start)

    def add_seconds(self, stage: Stage, seconds: float) -> None:
        """Write down seconds that the writer has measured."""
        with self._lock:
            self._seconds[stage] += seconds

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Write down the MACs of what torch computes in a block, but for `uncounted` parts."""
        with _FlopCounter() as counter:
            yield
        self.add_macs(counter.flops // 2)

    def close(self, exhaustive: ExhaustiveCost | None = None) -> Cost:
        """Add up what has been written so far."""
        with self._lock:
            steps = max(self._patches, default=-1) + 1
            total = time.perf_counter() - self._started
            return Cost(
                patches=tuple(self._patches.get(step, 0) for step in range(steps)),
                pixels_decoded=self._pixels,
                bytes_read=self._bytes,
                macs=self._macs,
                seconds={**self._seconds, "total": total},
                exhaustive=exhaustive,
            )


@contextmanager
def uncounted() -> Iterator[None]:
    """Hide a block from an enclosing `CostMeter.counted`, because it bills itself."""
    with _disable_current_modes():
        yield


_counted: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], int]] = WeakKeyDictionary()


def count_macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Count the multiply-accumulates of one call, once for a module and an input shape.

    The module is run on zeros. For one image that is quicker than a run without storage, for
    which torch would load its symbolic shapes.
    """
    known = _counted.setdefault(module, {})
    if shape not in known:
        device = next((tensor.device for tensor in module.parameters()), None)
        with uncounted(), torch.no_grad(), _FlopCounter() as counter:
            module(torch.zeros(shape, device=device))
        known[shape] = counter.flops // 2
    return known[shape]
