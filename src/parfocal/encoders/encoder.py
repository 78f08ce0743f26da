"""Compute feature vectors from patches of pixels.

A vector depends on its patch alone, up to rounding: between batch sizes, and between torch and
onnxruntime, values differ by less than 1e-4 of the vector's largest; in half precision, on GPUs,
by less than 1e-2.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from parfocal.cost import count_macs
from parfocal.encoders.spec import EncoderSpec

Run = Callable[[Tensor], Tensor]

CPU_BATCH, GPU_BATCH = 4, 256
NATIVE_HALF = (7, 0)  # first CUDA capability with tensor cores that multiply float16


class Encoder:
    """Computes feature vectors from patches of any size.

    Args:
        spec: input size and normalization of the network, and the size of its features.
        network: network from normalized images (n, 3, input_size, input_size) to features (n, dim).
        device: device to run on. CUDA devices with native float16 run in half precision.
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
        self.batch_size = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        self._mean, self._std = (
            torch.tensor([255 * v for v in value], device=self.device)[:, None, None]
            for value in (spec.mean, spec.std)
        )
        self.run = run or self.network
        self.workers = 1 if run is None else torch.get_num_threads()

    def __call__(self, patches: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n d"]:
        """Compute the features of patches.

        Args:
            patches: pixels in 0..255.

        Returns:
            Features in float32, on the encoder's device.
        """
        # Allocated outside inference mode, so that a model can be trained on the features.
        features = torch.empty(len(patches), self.spec.dim, device=self.device)

        def encode(start: int) -> None:
            batch = slice(start, start + self.batch_size)
            with torch.inference_mode(), self._precision():
                features[batch] = self.run(self._images(patches[batch])).float()

        starts = range(0, len(patches), self.batch_size)
        if min(self.workers, len(starts)) > 1:
            with ThreadPoolExecutor(self.workers) as pool:
                list(pool.map(encode, starts))
        else:
            for start in starts:
                encode(start)
        return features

    def macs_per_patch(self) -> int:
        """Count the multiply-accumulates of one patch, which is always resized to `input_size`."""
        return count_macs(self.network, (1, 3, self.spec.input_size, self.spec.input_size))

    def _images(self, patches: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 s s"]:
        """Resize and normalize patches."""
        writable = np.require(patches, requirements=["C", "W"])  # torch warns of read-only arrays
        pixels = torch.from_numpy(writable).permute(0, 3, 1, 2)  # n 3 h w, channels last
        size = (self.spec.input_size, self.spec.input_size)
        if pixels.shape[2:] != size:
            # Torch resizes bytes nine times as fast as it does floats, or as Pillow does bytes.
            pixels = F.interpolate(pixels, size, mode=self.spec.interpolation, antialias=True)
        return pixels.to(self.device).float().sub_(self._mean).div_(self._std)

    def _precision(self) -> torch.autocast:
        """Return the context of half precision, enabled only on devices that have it natively."""
        native = self.device.type == "cuda" and (
            torch.cuda.get_device_capability(self.device) >= NATIVE_HALF
        )
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=native)
