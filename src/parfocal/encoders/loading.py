"""Load encoders by name.

| name | features | weights |
|---|---|---|
| efficientnet-lite0 | 1280 | ImageNet, installed with parfocal |
| resnet50-layer3 | 1024 | ImageNet, from a file or through timm |
| resnet50-layer3-random | 1024 | random with a fixed seed, for measuring speed only |
| timm:NAME | that of the network | timm's; NAME may be hf-hub:OWNER/NAME |
| tiny | 32 | random with a fixed seed, for tests |
"""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from parfocal.encoders.allocator import keep_freed_memory
from parfocal.encoders.device import choose_device
from parfocal.encoders.encoder import Encoder, Run
from parfocal.encoders.networks import (
    EfficientNetLite0,
    Foldable,
    ResNet50Layer3,
    TinyNetwork,
    fill_randomly,
)
from parfocal.encoders.spec import (
    ANY_MPP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    UNKNOWN_LICENSE,
    EncoderSpec,
)
from parfocal.encoders.timm_networks import load_resnet50, load_timm
from parfocal.encoders.weights import digest, fill, read_lite0, read_weights

Network = TypeVar("Network", bound=nn.Module)
Runtime = Literal["auto", "torch", "onnx"]

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


def load_encoder(
    name: str = "efficientnet-lite0",
    *,
    device: str = "cpu",
    weights: Path | None = None,
    runtime: Runtime = "auto",
    tune_allocator: bool = True,
) -> Encoder:
    """Load an encoder by name, with frozen weights.

    Args:
        name: "efficientnet-lite0", "resnet50-layer3", "timm:NAME", or another name in the table of
            this module.
        device: "auto", "cpu", "cuda" or "cuda:1".
        weights: `.safetensors` or `.pth` file to use instead of the published weights.
        runtime: "auto" uses onnxruntime if it is installed, the device is a CPU and the network is
            efficientnet-lite0 or resnet50-layer3, else torch.
        tune_allocator: whether this process keeps the memory it frees if torch runs on a CPU; see
            `parfocal.encoders.allocator.keep_freed_memory`.

    Raises:
        ValueError: the name or the device is unknown, or the arguments do not go together.
        EncoderError: the weights, or a package that is needed to get them, are missing or damaged.
    """
    chosen = choose_device(device)
    spec, network = _load_network(name, weights)
    run = _onnx_network(runtime, spec, network, chosen)
    if run is None and tune_allocator and chosen.type == "cpu":
        keep_freed_memory()
    return Encoder(spec, network, device=str(chosen), run=run)


def _load_network(name: str, weights: Path | None) -> tuple[EncoderSpec, nn.Module]:
    """Load a network with its weights, and its description."""
    if name.startswith("timm:"):
        return _timm(name, weights)
    if name in _PUBLISHED:
        return _PUBLISHED[name](weights)
    if name not in _RANDOM:
        raise ValueError(
            f"encoder {name!r} is not known; choose efficientnet-lite0, resnet50-layer3, "
            "resnet50-layer3-random, tiny, or timm:NAME with a name that timm lists."
        )
    if weights is not None:
        raise ValueError(f"encoder {name!r} has random weights, so it cannot use {weights}.")
    return _RANDOM[name]()


def _efficientnet_lite0(weights: Path | None) -> tuple[EncoderSpec, nn.Module]:
    network = _build_empty(EfficientNetLite0)
    tensors = read_lite0() if weights is None else read_weights(weights)
    weights_hash = fill(network, tensors, source=str(weights or "the installed weights"))
    license_name = _LITE0.license if weights is None else UNKNOWN_LICENSE
    return replace(_LITE0, weights_hash=weights_hash, license=license_name), network


def _resnet50_layer3(weights: Path | None) -> tuple[EncoderSpec, nn.Module]:
    network = _build_empty(ResNet50Layer3)
    tensors = load_resnet50() if weights is None else read_weights(weights)
    weights_hash = fill(network, tensors, source=str(weights or "timm's resnet50"))
    license_name = _RESNET50.license if weights is None else UNKNOWN_LICENSE
    return replace(_RESNET50, weights_hash=weights_hash, license=license_name), network


def _resnet50_layer3_random() -> tuple[EncoderSpec, nn.Module]:
    network = _build_empty(ResNet50Layer3)
    fill_randomly(network, seed=0)
    spec = replace(
        _RESNET50,
        name="resnet50-layer3-random",
        license="none, drawn from a seed",
        weights_hash="random-seed-0",
    )
    return spec, network


def _tiny() -> tuple[EncoderSpec, nn.Module]:
    network = _build_empty(TinyNetwork)
    fill_randomly(network, seed=0)
    return _TINY, network


_PUBLISHED: dict[str, Callable[[Path | None], tuple[EncoderSpec, nn.Module]]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "resnet50-layer3": _resnet50_layer3,
}
_RANDOM: dict[str, Callable[[], tuple[EncoderSpec, nn.Module]]] = {
    "resnet50-layer3-random": _resnet50_layer3_random,
    "tiny": _tiny,
}


def _timm(name: str, weights: Path | None) -> tuple[EncoderSpec, nn.Module]:
    loaded = load_timm(name.removeprefix("timm:"), weights=weights)
    spec = EncoderSpec(
        name=name,
        dim=loaded.dim,
        input_size=loaded.input_size,
        mean=loaded.mean,
        std=loaded.std,
        mpp_range=ANY_MPP,
        license=loaded.license,
        weights_hash=digest(loaded.network.state_dict()),
        interpolation=loaded.interpolation,
    )
    return spec, loaded.network


def _build_empty(kind: type[Network]) -> Network:
    """Build a network without initializing weights that are replaced afterwards."""
    with torch.device("meta"):
        return kind()


def _onnx_network(
    runtime: Runtime, spec: EncoderSpec, network: nn.Module, device: torch.device
) -> Run | None:
    """Return the network in onnxruntime, or None to run it with torch.

    Raises:
        ValueError: `runtime` is "onnx", which cannot run this network here.
    """
    if runtime == "torch":
        return None
    installed = all(find_spec(name) is not None for name in ("onnx", "onnxruntime"))
    if installed and device.type == "cpu" and isinstance(network, Foldable):
        from parfocal.encoders.onnx_network import OnnxNetwork  # noqa: PLC0415 (optional)

        return OnnxNetwork(network, spec.input_size)
    if runtime == "auto":
        return None
    raise ValueError(
        f"runtime 'onnx' cannot run {spec.name} on {device}: it runs efficientnet-lite0 and "
        "resnet50-layer3, on cpu, with onnxruntime installed (pip install 'parfocal[onnx]')."
    )
