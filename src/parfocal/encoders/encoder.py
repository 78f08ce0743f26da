"""Compute feature vectors from patches of pixels.

A vector depends on its patch alone, up to rounding: between batch sizes, and between torch and
onnxruntime, values differ by less than 1e-4 of the vector's largest; in half precision, on GPUs,
by less than 1e-2.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from parfocal.cost import count_macs
from parfocal.encoders.batches import (
    PROBE,
    PatchMemoryError,
    fitting_batch,
    is_out_of_memory,
)
from parfocal.encoders.spec import EncoderSpec, Precision
from parfocal.encoders.weights import EncoderError, first_line

Run = Callable[[Tensor], Tensor]

CPU_BATCH, GPU_BATCH = 4, 256
# Number format -> its type, and the first CUDA capability that multiplies it in tensor cores.
FORMATS: dict[Precision, tuple[torch.dtype, tuple[int, int]]] = {
    "fp16": (torch.float16, (7, 0)),
    "bf16": (torch.bfloat16, (8, 0)),
}

logger = logging.getLogger(__name__)


@runtime_checkable
class Encoder(Protocol):
    """Computes feature vectors from patches, in this process or in a service.

    Attributes:
        spec: how patches are prepared, and which weights compute the features.
        device: device of the features.
        workers: number of batches to encode at the same time.
    """

    spec: EncoderSpec
    device: torch.device
    workers: int

    @property
    def batch_size(self) -> int:
        """Number of patches to encode at once."""

    def __call__(self, patches: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n d"]:
        """Compute the features of patches with values in 0..255, in float32, on `device`."""

    def macs_per_patch(self) -> int | None:
        """Return the multiply-accumulates of one patch; None if they are unknown."""


class NetworkEncoder:
    """Computes feature vectors from patches of any size with a network of this process.

    Args:
        spec: input size and normalization of the network, and the size of its features.
        network: network from normalized images (n, 3, input_size, input_size) to features (n, dim).
        device: device to run on. A CUDA device runs in the precision of `spec` if it has that
            natively, else in float32.
        run: function that computes the same as `network` in another runtime, using one core per
            batch; None to run `network` with torch, which uses all cores for one batch.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        network: nn.Module,
        *,
        device: str = "cpu",
        run: Run | None = None,
    ) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._batch_size = {"cpu": CPU_BATCH, "cuda": 0}.get(self.device.type, GPU_BATCH)
        self._dtype = _native_type(spec.precision, self.device)
        self._mean, self._std = (
            torch.tensor([255 * v for v in value], device=self.device)[:, None, None]
            for value in (spec.mean, spec.std)
        )
        self.run = run or self.network
        self.workers = 1 if run is None else torch.get_num_threads()

    @property
    def batch_size(self) -> int:
        """Number of patches to encode at once.

        On a GPU it is as many as fit into the free memory at the first call, at most 256.
        It is halved whenever memory is used up.
        """
        if not self._batch_size:
            size = self.spec.input_size
            images = torch.zeros(PROBE, 3, size, size, device=self.device)
            self._batch_size = fitting_batch(self._encode, images, most=GPU_BATCH)
            logger.debug("%s: %d patches at once", self.spec.name, self._batch_size)
        return self._batch_size

    def __call__(self, patches: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n d"]:
        """Compute the features of patches.

        Args:
            patches: pixels in 0..255.

        Returns:
            Features in float32, on the encoder's device.

        Raises:
            PatchMemoryError: the device has no memory for a single patch.
            EncoderError: the network returns another number of features than its description says,
                or features that are not finite.
        """
        # Allocated outside inference mode, so that a model can be trained on the features.
        features = torch.empty(len(patches), self.spec.dim, device=self.device)
        if self.workers > 1 and len(patches) > self.batch_size:
            size = self.batch_size
            batches = [slice(start, start + size) for start in range(0, len(patches), size)]
            with ThreadPoolExecutor(self.workers) as pool:
                list(pool.map(lambda rows: self._fill(features[rows], patches[rows]), batches))
            return features
        start = 0
        while start < len(patches):
            rows = slice(start, start + self.batch_size)  # which may be halved on the way
            self._fill(features[rows], patches[rows])
            start = rows.stop
        return features

    def macs_per_patch(self) -> int:
        """Count the multiply-accumulates of one patch, which is always resized to `input_size`."""
        return count_macs(self.network, (1, 3, self.spec.input_size, self.spec.input_size))

    def _fill(self, features: Float[Tensor, "n d"], patches: UInt8[np.ndarray, "n h w 3"]) -> None:
        """Write the features of one batch, which is halved if the device runs out of memory."""
        try:
            encoded = self._encode(self._images(patches))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(patches) == 1:
                raise PatchMemoryError(
                    f"encoder {self.spec.name}: {self.device} has no memory for a single patch "
                    f"({first_line(error)}). Stop other programs that use it, or choose another "
                    "device (--device) or a smaller encoder."
                ) from None
        else:
            features.copy_(self._checked(encoded))
            return
        # Outside the handler, whose traceback keeps the tensors of the failed batch alive.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = (len(patches) + 1) // 2
        if half < self.batch_size:
            self._batch_size = half
            logger.info("%s: out of memory; now %d patches at once", self.spec.name, half)
        self._fill(features[:half], patches[:half])
        self._fill(features[half:], patches[half:])

    def _encode(self, images: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n d"]:
        """Run the network, once more in float32 if half precision overflows."""
        with torch.inference_mode():
            with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
                features = self.run(images).float()
            if self._dtype is not None and not features.isfinite().all():
                features = self.run(images).float()
        return features

    def _checked(self, features: Tensor) -> Float[Tensor, "n d"]:
        """Return features after checking their width and that they are finite."""
        if features.shape[1:] != (self.spec.dim,):
            raise EncoderError(
                f"encoder {self.spec.name}: its network returns features of shape "
                f"{tuple(features.shape[1:])}, and its description says {self.spec.dim}. Load the "
                "encoder again with the weights it was described with."
            )
        if not features.isfinite().all():
            count = int((~features.isfinite()).any(1).sum())
            raise EncoderError(
                f"encoder {self.spec.name}: the features of {count} of {len(features)} patches are "
                "not finite. Its weights are damaged or of another network."
            )
        return features

    def _images(self, patches: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 s s"]:
        """Resize, crop and normalize patches."""
        writable = np.require(patches, requirements=["C", "W"])  # torch warns of read-only arrays
        pixels = torch.from_numpy(writable).permute(0, 3, 1, 2)  # n 3 h w, channels last
        spec = self.spec
        size = (spec.resize_px or spec.input_size,) * 2
        if pixels.shape[2:] != size:
            # Torch resizes bytes nine times as fast as it does floats, or as Pillow does bytes.
            pixels = F.interpolate(pixels, size, mode=spec.interpolation, antialias=True)
        if spec.resize_px > spec.input_size:
            edge = round((spec.resize_px - spec.input_size) / 2)
            inner = slice(edge, edge + spec.input_size)
            pixels = pixels[:, :, inner, inner].contiguous(memory_format=torch.channels_last)
        return pixels.to(self.device).float().sub_(self._mean).div_(self._std)


def _native_type(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the number type to compute with on a device; None for float32."""
    if device.type != "cuda" or precision not in FORMATS:
        return None
    dtype, capability = FORMATS[precision]
    return dtype if torch.cuda.get_device_capability(device) >= capability else None
