"""Measure what processing a slide costs: patches, pixels, bytes, MACs and seconds.

A `CostMeter` belongs to a slide. Whatever decodes pixels, encodes patches or runs a model adds to
it, so every number is measured and none is estimated from a formula.
"""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import fsum
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    Operation = OpOverload[..., object]
else:
    Operation = OpOverload  # in torch 2.6 it takes no parameters

Stage = Literal["open", "tissue", "read", "encode", "model"]
STAGES: tuple[Stage, ...] = ("open", "tissue", "read", "encode", "model")
# Torch registers a FLOP formula only for the GPU kernel; the CPU kernel does the same products.
_SAME_FORMULA = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        torch.ops.aten._scaled_dot_product_flash_attention
    )
}


@dataclass(frozen=True)
class ExhaustiveCost:
    """The cost of encoding every tissue patch of a slide at one magnification.

    Args:
        magnification: the highest magnification of the model.
        patches: number of patches at that magnification that pass the tissue test.
        descendants: number of existing patches at that magnification that lie inside a patch kept
            at the lowest magnification.
        macs: multiply-accumulates of encoding `patches`; None if unknown.
        pixels: pixels to decode from the stored level for `patches`.
    """

    magnification: float
    patches: int
    descendants: int
    macs: int | None
    pixels: int


@dataclass(frozen=True)
class Cost:
    """The measured cost of one slide.

    Args:
        patches: number of patches encoded, per step.
        pixels_decoded: pixels decoded from stored levels; a pixel decoded twice counts twice.
        bytes_read: bytes read from the file, of directories and compressed pixels; None if the
            reader does not report them.
        macs: multiply-accumulates, counted with torch's FLOP formulas; None if an encoder that
            runs elsewhere does not report its own.
        seconds: seconds per stage, summed over threads, so that "read" may overlap "encode"; and
            "total", in wall-clock time.
        exhaustive: cost of processing the same slide exhaustively; None if not computed.
        encoding_macs: the part of `macs` that encoders computed, per step; 0 for a model that takes
            pixels, whose network is part of the model. Empty if unknown.
        requests: number of reads of the file, or requests for parts of it; None if `bytes_read` is.
        file_bytes: size of the file; None if the reader does not report it.
    """

    patches: tuple[int, ...]
    pixels_decoded: int
    bytes_read: int | None
    macs: int | None
    seconds: dict[str, float]
    exhaustive: ExhaustiveCost | None = None
    encoding_macs: tuple[int, ...] = ()
    requests: int | None = None
    file_bytes: int | None = None

    @property
    def share_bytes(self) -> float | None:
        """Bytes read, as a share of the size of the file; more than 1 if parts are read twice."""
        if self.bytes_read is None or not self.file_bytes:
            return None
        return self.bytes_read / self.file_bytes

    @property
    def share_patches(self) -> float | None:
        """Patches encoded, as a share of the exhaustive number."""
        if self.exhaustive is None or self.exhaustive.patches == 0:
            return None
        return sum(self.patches) / self.exhaustive.patches

    @property
    def share_pixels(self) -> float | None:
        """Pixels decoded, also to find tissue, as a share of the exhaustive number."""
        if self.exhaustive is None or self.exhaustive.pixels == 0:
            return None
        return self.pixels_decoded / self.exhaustive.pixels

    @property
    def share_macs(self) -> float | None:
        """Multiply-accumulates, as a share of the exhaustive number."""
        if self.macs is None or self.exhaustive is None or not self.exhaustive.macs:
            return None
        return self.macs / self.exhaustive.macs


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations with torch's formulas.

    `torch.utils.flop_counter.FlopCounterMode` returns the same number, but first spends a second on
    importing torch's compiler.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # if True, entering the mode imports the compiler

    def __torch_dispatch__(
        self,
        func: Operation,
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        packet = func.overloadpacket
        formula = flop_registry.get(_SAME_FORMULA.get(packet, packet))
        if formula is None:
            with self:  # a composite operation is counted by its parts
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = func(*args, **(kwargs or {}))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


class CostMeter:
    """Adds up the cost of one slide, or of a patient; safe to use from several threads.

    Args:
        parts: meters of the slides of a patient, whose costs are part of the total.
    """

    def __init__(self, parts: Sequence["CostMeter"] = ()) -> None:
        self._parts = tuple(parts)
        self._lock = threading.Lock()
        self._started: float = min([time.perf_counter(), *(part._started for part in parts)])
        self._patches: dict[int, int] = {}
        self._pixels = 0
        self._bytes: int | None = None
        self._requests = 0
        self._file_bytes: int | None = None
        self._macs = 0
        self._encoding_macs: dict[int, int] = {}
        self._knows_macs = True
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def add_patches(self, step: int, count: int, *, macs: int | None = 0) -> None:
        """Add encoded patches.

        Args:
            step: index of the magnification, 0 for the lowest.
            count: number of patches.
            macs: multiply-accumulates of encoding them, which are added to the total, too; None
                if unknown, which makes the total unknown.
        """
        with self._lock:
            self._patches[step] = self._patches.get(step, 0) + count
            self._knows_macs &= macs is not None
            self._encoding_macs[step] = self._encoding_macs.get(step, 0) + (macs or 0)
            self._macs += macs or 0

    def add_pixels(self, pixels: int) -> None:
        """Add pixels decoded from a stored level."""
        with self._lock:
            self._pixels += pixels

    def add_bytes(self, count: int, *, requests: int = 0) -> None:
        """Add bytes read from the file, and the number of requests for them."""
        with self._lock:
            self._bytes = (self._bytes or 0) + count
            self._requests += requests

    def forget_bytes(self) -> None:
        """Report no bytes, since the reader of the file does not count them."""
        with self._lock:
            self._bytes, self._requests, self._file_bytes = None, 0, None

    def set_file_bytes(self, count: int) -> None:
        """Set the size of the file."""
        with self._lock:
            self._file_bytes = count

    def add_macs(self, macs: int) -> None:
        """Add multiply-accumulates."""
        with self._lock:
            self._macs += macs

    def add_seconds(self, stage: Stage, seconds: float) -> None:
        """Add seconds measured by the caller."""
        with self._lock:
            self._seconds[stage] += seconds

    @contextmanager
    def measure_time(self, stage: Stage) -> Iterator[None]:
        """Add the seconds that a block of code takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add_seconds(stage, time.perf_counter() - start)

    @contextmanager
    def measure_macs(self) -> Iterator[None]:
        """Add the MACs that torch computes in a block of code, except inside `no_mac_counting`."""
        with _FlopCounter() as counter:
            yield
        self.add_macs(counter.flops // 2)

    def elapsed(self) -> float:
        """Return the seconds since the slide was opened."""
        return time.perf_counter() - self._started

    def total(self, exhaustive: ExhaustiveCost | None = None) -> Cost:
        """Return the cost so far.

        Args:
            exhaustive: cost of processing the same slide exhaustively, to compare with.
        """
        own = self._own_total(exhaustive)
        if not self._parts:
            return own
        return _sum_costs(own, [part.total() for part in self._parts])

    def _own_total(self, exhaustive: ExhaustiveCost | None) -> Cost:
        """Return the cost without that of the parts."""
        with self._lock:
            steps = max(self._patches, default=-1) + 1
            total = time.perf_counter() - self._started
            encoding = tuple(self._encoding_macs.get(step, 0) for step in range(steps))
            return Cost(
                patches=tuple(self._patches.get(step, 0) for step in range(steps)),
                pixels_decoded=self._pixels,
                bytes_read=self._bytes,
                requests=None if self._bytes is None else self._requests,
                file_bytes=self._file_bytes,
                macs=self._macs if self._knows_macs else None,
                seconds={**self._seconds, "total": total},
                exhaustive=exhaustive,
                encoding_macs=encoding if self._knows_macs else (),
            )


def _sum_costs(own: Cost, parts: Sequence[Cost]) -> Cost:
    """Return the cost of a patient: what was counted for all slides, and that of each slide.

    Bytes are unknown if those of a slide are; the total of seconds is that of all slides together.
    """
    costs = [own, *parts]
    steps = max(len(cost.patches) for cost in costs)
    macs = [cost.macs for cost in costs if cost.macs is not None]
    encoding = [cost.encoding_macs for cost in costs if len(cost.encoding_macs) > 0]
    known = len(macs) == len(costs)
    stages: dict[str, float] = {
        stage: fsum(cost.seconds[stage] for cost in costs) for stage in STAGES
    }
    return Cost(
        patches=_sum_steps([cost.patches for cost in costs], steps),
        pixels_decoded=sum(cost.pixels_decoded for cost in costs),
        bytes_read=_sum_known([part.bytes_read for part in parts]),
        macs=sum(macs) if known else None,
        seconds={**stages, "total": own.seconds["total"]},
        exhaustive=own.exhaustive,
        encoding_macs=_sum_steps(encoding, steps) if known else (),
        requests=_sum_known([part.requests for part in parts]),
        file_bytes=_sum_known([part.file_bytes for part in parts]),
    )


def _sum_steps(counts: Sequence[tuple[int, ...]], steps: int) -> tuple[int, ...]:
    """Sum numbers by step; a cost without a step has 0 there."""
    return tuple(
        sum(each[step] if step < len(each) else 0 for each in counts) for step in range(steps)
    )


def _sum_known(counts: Sequence[int | None]) -> int | None:
    """Return the sum; None if one of the numbers is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


@contextmanager
def no_mac_counting() -> Iterator[None]:
    """Hide a block of code from an enclosing `CostMeter.measure_macs`.

    For code that reports its MACs itself with `CostMeter.add_macs`.
    """
    with _disable_current_modes():
        yield


_macs_by_shape: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], int]] = WeakKeyDictionary()


def count_macs(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Count the multiply-accumulates of one forward pass, on an input of zeros.

    The result is cached per module and input shape. For a single image a real pass is faster than
    one on the meta device, which imports torch's symbolic shapes.

    Args:
        module: network to run.
        shape: shape of its input, including the batch axis.
    """
    cached = _macs_by_shape.setdefault(module, {})
    if shape not in cached:
        device = next((tensor.device for tensor in module.parameters()), None)
        with no_mac_counting(), torch.no_grad(), _FlopCounter() as counter:
            module(torch.zeros(shape, device=device))
        cached[shape] = counter.flops // 2
    return cached[shape]
