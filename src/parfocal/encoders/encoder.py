"""Patches of pixels to feature vectors: `Encoder`, and those we ship.

| name | features | weights |
|---|---|---|
| efficientnet-lite0 | 1280 | ImageNet, installed with parfocal |
| resnet50-layer3 | 1024 | ImageNet, from `weights` or through timm |
| resnet50-layer3-random | 1024 | drawn from a seed: for measuring speed only |
| timm:NAME | as it says | timm's, also `timm:hf-hub:OWNER/NAME` |
| tiny | 32 | drawn from a seed: for tests |

A vector depends on its patch alone, but for rounding: across batch sizes, and between torch and
onnxruntime, values differ by less than 1e-4 of the vector's largest; in half precision, on
GPUs, by less than 1e-2.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from parfocal.cost import count_macs
from parfocal.encoders.allocator import keep_freed_memory
from parfocal.encoders.hub import load_resnet50, load_timm
from parfocal.encoders.networks import (
    EfficientNetLite0,
    Foldable,
    ResNet50Layer3,
    TinyNetwork,
    fill_randomly,
)
from parfocal.encoders.weights import digest, fill, read_lite0, read_weights
from parfocal.slide.resolution import MAX_MPP, MIN_MPP

Network = TypeVar("Network", bound=nn.Module)
Run = Callable[[Tensor], Tensor]
Triple = tuple[float, float, float]
Runtime = Literal["auto", "torch", "onnx"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What no microscope image is outside of. A network for photographs has no range of its own.
ANY_MPP = (MIN_MPP, MAX_MPP)
UNKNOWN_LICENSE = "as the weights file's"
CPU_BATCH, GPU_BATCH = 4, 256
NATIVE_HALF = (7, 0)  # first CUDA capability whose tensor cores multiply float16


@dataclass(frozen=True)
class EncoderSpec:
    """What must be known of an encoder to use its features.

    Args:
        name: as `load_encoder` takes it.
        dim: features per patch.
        input_size: height and width to which a patch is resized, in pixels.
        mean: taken from the pixels' red, green and blue, of 0 to 1.
        std: by which they are then divided.
        mpp_range: in which it may be used; ImageNet's photographs have no mpp, so any.
        license: of the weights.
        weights_hash: 16 hex digits over them; says "random" where they are drawn.
        interpolation: of the resizing, always over whole areas when it shrinks.
    """

    name: str
    dim: int
    input_size: int
    mean: Triple
    std: Triple
    mpp_range: tuple[float, float]
    license: str
    weights_hash: str
    interpolation: str = "bilinear"


class Encoder:
    """Turns patches of any size into feature vectors.

    Args:
        spec: what to feed the network, and what comes out.
        network: from normalized images (n, 3, input_size, input_size) to features (n, dim).
        device: where it runs, with CUDA in half precision where that is native.
        run: how to compute the same in another runtime, one batch a core; None for torch,
            which spreads a batch over the cores itself.
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
        self.batch = CPU_BATCH if self.device.type == "cpu" else GPU_BATCH
        self._mean, self._std = (
            torch.tensor([255 * v for v in value], device=self.device)[:, None, None]
            for value in (spec.mean, spec.std)
        )
        self.run = run or self.network
        self.workers = 1 if run is None else torch.get_num_threads()

    def __call__(self, patches: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n d"]:
        """Encode patches of any size, in float32 on the encoder's device."""
        # Made outside inference mode, so that a model can be trained on it.
        features = torch.empty(len(patches), self.spec.dim, device=self.device)

        def encode(start: int) -> None:
            batch = slice(start, start + self.batch)
            with torch.inference_mode(), self._precision():
                features[batch] = self.run(self._images(patches[batch])).float()

        starts = range(0, len(patches), self.batch)
        if min(self.workers, len(starts)) > 1:
            with ThreadPoolExecutor(self.workers) as pool:
                list(pool.map(encode, starts))
        else:
            for start in starts:
                encode(start)
        return features

    def macs_per_patch(self, patch_size: int) -> int:
        """Count the multiply-accumulates of one patch; resized first, so the same at any size."""
        return count_macs(self.network, (1, 3, self.spec.input_size, self.spec.input_size))

    def _images(self, patches: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n 3 s s"]:
        """Resize and normalize."""
        writable = np.require(patches, requirements=["C", "W"])  # or torch warns
        pixels = torch.from_numpy(writable).permute(0, 3, 1, 2)  # n 3 h w, channels last
        size = (self.spec.input_size, self.spec.input_size)
        if pixels.shape[2:] != size:
            # On bytes torch resizes nine times as fast as Pillow or as on floats.
            pixels = F.interpolate(pixels, size, mode=self.spec.interpolation, antialias=True)
        return pixels.to(self.device).float().sub_(self._mean).div_(self._std)

    def _precision(self) -> torch.autocast:
        """Give half precision where it is native: never on a CPU, most have none."""
        native = self.device.type == "cuda" and (
            torch.cuda.get_device_capability(self.device) >= NATIVE_HALF
        )
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=native)


def load_encoder(
    name: str = "efficientnet-lite0",
    *,
    device: str = "cpu",
    weights: Path | None = None,
    runtime: Runtime = "auto",
    tune_allocator: bool = True,
) -> Encoder:
    """Load an encoder by name, frozen and ready.

    Args:
        name: "efficientnet-lite0", "resnet50-layer3", "timm:NAME", or see this module's table.
        device: "auto", "cpu", "cuda" or "cuda:1".
        weights: a `.safetensors` or `.pth` file to use in place of the published weights.
        runtime: "auto" takes onnxruntime where it is installed, the device is a CPU and the
            network is efficientnet-lite0 or resnet50-layer3; otherwise torch.
        tune_allocator: where torch runs on a CPU, let this process keep memory it frees, see
            `parfocal.encoders.allocator.keep_freed_memory`.

    Raises:
        ValueError: an unknown name or device, or arguments that do not go together.
        EncoderError: the weights or what is needed to get them are missing or damaged.
    """
    place = choose_device(device)
    spec, network = _make(name, weights)
    run = _onnx_network(runtime, spec, network, place)
    if run is None and tune_allocator and place.type == "cpu":
        keep_freed_memory()
    return Encoder(spec, network, device=str(place), run=run)


def _make(name: str, weights: Path | None) -> tuple[EncoderSpec, nn.Module]:
    """Make a network with weights, and say what it is."""
    if name.startswith("timm:"):
        return _timm(name, weights)
    if name == "efficientnet-lite0":
        return _efficientnet_lite0(weights)
    if name == "resnet50-layer3":
        return _resnet50_layer3(weights)
    if name not in ("resnet50-layer3-random", "tiny"):
        raise ValueError(
            f"encoder {name!r} is not known; choose efficientnet-lite0, resnet50-layer3, "
            "resnet50-layer3-random, tiny, or timm:NAME with a name that timm lists."
        )
    if weights is not None:
        raise ValueError(f"encoder {name!r} draws its weights, so it cannot use {weights}.")
    return _tiny() if name == "tiny" else _resnet50_layer3_random()


_LITE0 = EncoderSpec(
    name="efficientnet-lite0",
    dim=EfficientNetLite0.dim,
    input_size=224,
    mean=(127 / 255, 127 / 255, 127 / 255),
    std=(128 / 255, 128 / 255, 128 / 255),
    mpp_range=ANY_MPP,
    license="Apache-2.0",
    weights_hash="",
)
_RESNET50 = EncoderSpec(
    name="resnet50-layer3",
    dim=ResNet50Layer3.dim,
    input_size=256,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    mpp_range=ANY_MPP,
    license="BSD-3-Clause",
    weights_hash="",
)
_TINY = EncoderSpec(
    name="tiny",
    dim=TinyNetwork.dim,
    input_size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    mpp_range=ANY_MPP,
    license="Apache-2.0",
    weights_hash="random-seed-0",
)


def _efficientnet_lite0(weights: Path | None) -> tuple[EncoderSpec, nn.Module]:
    network = _empty(EfficientNetLite0)
    published = read_lite0() if weights is None else read_weights(weights)
    made_of = fill(network, published, source=str(weights or "the installed weights"))
    terms = _LITE0.license if weights is None else UNKNOWN_LICENSE
    return replace(_LITE0, weights_hash=made_of, license=terms), network


def _resnet50_layer3(weights: Path | None) -> tuple[EncoderSpec, nn.Module]:
    network = _empty(ResNet50Layer3)
    published = load_resnet50() if weights is None else read_weights(weights)
    made_of = fill(network, published, source=str(weights or "timm's resnet50"))
    terms = _RESNET50.license if weights is None else UNKNOWN_LICENSE
    return replace(_RESNET50, weights_hash=made_of, license=terms), network


def _resnet50_layer3_random() -> tuple[EncoderSpec, nn.Module]:
    network = _empty(ResNet50Layer3)
    fill_randomly(network, seed=0)
    spec = replace(
        _RESNET50,
        name="resnet50-layer3-random",
        license="none, drawn from a seed",
        weights_hash="random-seed-0",
    )
    return spec, network


def _tiny() -> tuple[EncoderSpec, nn.Module]:
    network = _empty(TinyNetwork)
    fill_randomly(network, seed=0)
    return _TINY, network


def _timm(name: str, weights: Path | None) -> tuple[EncoderSpec, nn.Module]:
    made = load_timm(name.removeprefix("timm:"), weights=weights)
    spec = EncoderSpec(
        name=name,
        dim=made.dim,
        input_size=made.input_size,
        mean=made.mean,
        std=made.std,
        mpp_range=ANY_MPP,
        license=made.license,
        weights_hash=digest(made.network.state_dict()),
        interpolation=made.interpolation,
    )
    return spec, made.network


def _empty(kind: type[Network]) -> Network:
    """Build a network without drawing weights that would be replaced."""
    with torch.device("meta"):
        return kind()


def choose_device(name: str) -> torch.device:
    """Find a device by name; "auto" is the first CUDA device, and the CPU where there is none.

    Raises:
        ValueError: an unknown name, or a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device {name!r} is not known; choose auto, cpu, cuda or cuda:1."
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {name!r}: torch {torch.__version__} finds no CUDA device; use cpu."
        )
    return device


def _onnx_network(
    wanted: Runtime, spec: EncoderSpec, network: nn.Module, place: torch.device
) -> Run | None:
    """Give the network in onnxruntime, None where torch is to run it, or say why it cannot be."""
    if wanted == "torch":
        return None
    installed = all(find_spec(name) is not None for name in ("onnx", "onnxruntime"))
    if installed and place.type == "cpu" and isinstance(network, Foldable):
        from parfocal.encoders.onnx_graph import OnnxNetwork  # noqa: PLC0415 (optional)

        return OnnxNetwork(network, spec.input_size)
    if wanted == "auto":
        return None
    raise ValueError(
        f"runtime 'onnx' cannot run {spec.name} on {place}: it takes efficientnet-lite0 and "
        "resnet50-layer3, on cpu, with onnxruntime installed (pip install 'parfocal[onnx]')."
    )
