"""Encode the patches of several slides together: one queue for each device.

A zoom step requests 16 to 200 patches, which are too few for a large GPU. With several slides in
flight, each in a thread of its own, their requests are joined to batches of the best size. Whoever
finds the device free encodes the requests at the head of the queue, its own among them, and then
hands the device on, so that a single slide is encoded as directly as without a queue.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from parfocal.encoders.encoder import Encoder

GPU_BATCHES = 2  # one is encoded while the patches of the next are prepared


@dataclass
class _Request:
    """Patches that a thread waits for."""

    patches: UInt8[np.ndarray, "n h w 3"]
    ready: threading.Event = field(default_factory=threading.Event)
    features: Float[Tensor, "n d"] | None = None
    seconds: float = 0.0
    error: BaseException | None = None

    @property
    def is_answered(self) -> bool:
        return self.features is not None or self.error is not None


class EncoderQueue:
    """Encodes the requests of several threads in joint batches; it is an `Encoder` itself.

    A feature vector is that of its patch, up to the rounding that depends on the batch. A patch
    that cannot be encoded fails its own request only.

    Args:
        encoder: what encodes the batches.
        join: whether to join requests of several threads. If False, the batches are those of the
            requests, and so are the last bits of the features.
        turns: limits how many batches are encoded at the same time, if several queues share a
            device; None for as many as the encoder takes.
    """

    def __init__(
        self, encoder: Encoder, *, join: bool = True, turns: threading.Semaphore | None = None
    ) -> None:
        self.encoder = encoder
        self.spec, self.device, self.workers = encoder.spec, encoder.device, encoder.workers
        self._join = join
        self._turns = turns or threading.Semaphore(_batches_at_once(encoder))
        self._free = _batches_at_once(encoder)
        self._lock = threading.Lock()
        self._waiting: deque[_Request] = deque()

    @property
    def batch_size(self) -> int:
        """Number of patches to encode at once."""
        return self.encoder.batch_size

    @property
    def free(self) -> int:
        """Number of batches that can be encoded now without waiting."""
        return self._free

    @property
    def waiting(self) -> int:
        """Number of requests that wait for others."""
        return len(self._waiting)

    def macs_per_patch(self) -> int | None:
        """Return the multiply-accumulates of one patch; None if they are unknown."""
        return self.encoder.macs_per_patch()

    def __call__(self, patches: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n d"]:
        """Compute the features of patches; see `Encoder`."""
        return self.encode_timed(patches)[0]

    def encode_timed(
        self, patches: UInt8[np.ndarray, "n h w 3"]
    ) -> tuple[Float[Tensor, "n d"], float]:
        """Compute the features of patches, and measure what they cost.

        Args:
            patches: pixels in 0..255.

        Returns:
            Features in float32, on the encoder's device, and the seconds of the batch, shared out
            by patches. The wait for other batches is not included.
        """
        request = _Request(patches)
        with self._lock:
            is_first = self._free > 0  # then nobody waits
            self._free -= is_first
            self._waiting.append(request)
        if not is_first:
            request.ready.wait()
        if not request.is_answered:
            try:
                self._encode(self._next_batch())
            finally:
                self._hand_on()
        if request.error is not None:
            raise request.error
        assert request.features is not None
        return request.features, request.seconds

    def _next_batch(self) -> list[_Request]:
        """Take the requests at the head of the queue that fit into one batch."""
        with self._lock:
            batch = [self._waiting.popleft()]
            shape, count = batch[0].patches.shape[1:], len(batch[0].patches)
            while self._join and self._waiting:
                following = self._waiting[0].patches
                count += len(following)
                if following.shape[1:] != shape or count > self.batch_size:
                    break
                batch.append(self._waiting.popleft())
        return batch

    def _hand_on(self) -> None:
        """Let the thread of the next request encode, or mark the device as free."""
        with self._lock:
            if self._waiting:
                self._waiting[0].ready.set()
            else:
                self._free += 1

    def _encode(self, batch: Sequence[_Request]) -> None:
        """Answer the requests of a batch; if it fails, each of them alone."""
        try:
            self._encode_jointly(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
            else:
                for request in batch:
                    self._encode([request])
        except BaseException as error:  # an interruption, which ends all of them
            for request in batch:
                request.error = error
            raise
        finally:
            for request in batch:
                request.ready.set()

    def _encode_jointly(self, batch: Sequence[_Request]) -> None:
        sizes = [len(request.patches) for request in batch]
        parts = [request.patches for request in batch]
        patches = parts[0] if len(parts) == 1 else np.concatenate(parts)
        with self._turns:
            start = time.perf_counter()
            features = self.encoder(patches)
            seconds = time.perf_counter() - start
        for request, part in zip(batch, torch.split(features, sizes), strict=True):
            request.features = part
            request.seconds = seconds * len(part) / max(1, len(features))


def queue_encoders(encoders: Sequence[Encoder]) -> tuple[Encoder, ...]:
    """Return a queue for each encoder; the queues of one device take turns.

    On a CPU, whose best batches are smaller than the requests of a slide, requests are not joined:
    every slide has the features that it has without a queue, to the last bit.

    Args:
        encoders: encoder of each magnification; one that is used for several has one queue.
    """
    turns: dict[torch.device, threading.Semaphore] = {}
    queues: dict[int, EncoderQueue] = {}
    for encoder in encoders:
        shared = turns.setdefault(encoder.device, threading.Semaphore(_batches_at_once(encoder)))
        if id(encoder) not in queues:
            join = encoder.device.type != "cpu"
            queues[id(encoder)] = EncoderQueue(encoder, join=join, turns=shared)
    return tuple(queues[id(encoder)] for encoder in encoders)


class EncoderSource:
    """Encoders in queues, which another process loads for itself.

    Args:
        encoders: the loaded encoders of each magnification; None to load them when needed.
        load: loads the encoders; None to send the loaded ones to other processes.

    Raises:
        ValueError: neither is given.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder] | None,
        load: Callable[[], Sequence[Encoder]] | None = None,
    ) -> None:
        if encoders is None and load is None:
            raise ValueError("neither encoders nor a function that loads them.")
        self._encoders, self._load = encoders, load
        self._queues: tuple[Encoder, ...] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        """Leave out what another process loads."""
        return {"encoders": None if self._load else self._encoders, "load": self._load}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the source in another process."""
        self.__init__(**state)  # type: ignore[misc]

    def get(self) -> tuple[Encoder, ...]:
        """Return the encoders in queues, loaded once in each process."""
        with self._lock:
            if self._queues is None:
                if self._encoders is None:
                    assert self._load is not None
                    self._encoders = self._load()
                self._queues = queue_encoders(self._encoders)
            return self._queues


def _batches_at_once(encoder: Encoder) -> int:
    return max(encoder.workers, 1 if encoder.device.type == "cpu" else GPU_BATCHES)
