"""Load encoders by name.

| name | features | weights |
|---|---|---|
| efficientnet-lite0 | 1280 | ImageNet, installed with parfocal |
| resnet50-layer3 | 1024 | ImageNet, from a file or through timm |
| uni2-h, virchow2, ... | see `parfocal encoders` | published; from the Hub, its cache, or files |
| timm:NAME | that of the network | timm's; NAME may be hf-hub:OWNER/NAME or local-dir:PATH |
| http://HOST:PORT/ | those of the service | those of the service; see docs/encoder-service.md |
| resnet50-layer3-random | 1024 | random with a fixed seed, for measuring speed only |
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
from parfocal.encoders.catalog import CARDS, TEST_CARDS, find_card, unknown_encoder
from parfocal.encoders.device import choose_device
from parfocal.encoders.encoder import Encoder, NetworkEncoder, Run
from parfocal.encoders.networks import (
    EfficientNetLite0,
    Foldable,
    ResNet50Layer3,
    TinyNetwork,
    fill_randomly,
)
from parfocal.encoders.published import load_published
from parfocal.encoders.service import is_address, load_service
from parfocal.encoders.spec import UNKNOWN_LICENSE, EncoderSpec, Output
from parfocal.encoders.timm_encoder import load_timm_encoder
from parfocal.encoders.timm_networks import load_resnet50
from parfocal.encoders.weights import fill, read_lite0, read_weights

Network = TypeVar("Network", bound=nn.Module)
Runtime = Literal["auto", "torch", "onnx"]

_LITE0 = CARDS["efficientnet-lite0"].spec()
_RESNET50 = CARDS["resnet50-layer3"].spec()
RANDOM = "random-seed-0"  # stands for the hash of random weights


def load_encoder(
    name: str = "efficientnet-lite0",
    *,
    device: str = "cpu",
    weights: Path | None = None,
    runtime: Runtime = "auto",
    tune_allocator: bool = True,
    output: Output | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load an encoder by name, with frozen weights.

    Args:
        name: "efficientnet-lite0", "uni2-h", "timm:NAME", or another name in the table of this
            module; or the address of a service, such as http://HOST:PORT/.
        device: "auto", "cpu", "cuda" or "cuda:1".
        weights: `.safetensors` or `.pth` file, or folder of a repository of the Hub, to use instead
            of the published weights.
        runtime: "auto" uses onnxruntime if it is installed, the device is a CPU and the network is
            efficientnet-lite0 or resnet50-layer3, else torch.
        tune_allocator: whether this process keeps the memory it frees if torch runs on a CPU; see
            `parfocal.encoders.allocator.keep_freed_memory`.
        output: output of the network to use as features: "pooled", "cls", "mean" or "cls+mean";
            None for the encoder's default.
        trust_remote_code: whether to run code from the repository of the encoder.

    Raises:
        ValueError: the name or the device is unknown, or the arguments do not go together.
        EncoderError: the weights, or a package that is needed to get them, are missing or damaged;
            or the service does not answer.
    """
    if is_address(name):
        return _load_service(name, device, weights, output)
    chosen = choose_device(device)
    spec, network = _load_network(name, weights, output, trust_remote_code=trust_remote_code)
    run = _onnx_network(runtime, spec, network, chosen)
    if run is None and tune_allocator and chosen.type == "cpu":
        keep_freed_memory()
    return NetworkEncoder(spec, network, device=str(chosen), run=run)


def is_known_encoder(name: str) -> bool:
    """Return whether `load_encoder` takes a name; its weights may be missing.

    >>> is_known_encoder("uni2-h"), is_known_encoder("our-own")
    (True, False)
    """
    return is_address(name) or name.startswith("timm:") or bool(find_card(name)) or name in _RANDOM


def _load_service(
    address: str, device: str, weights: Path | None, output: Output | None
) -> Encoder:
    """Connect to a service, which chooses its weights and its output."""
    if weights is not None:
        raise ValueError(
            f"encoder {address}: a service has weights of its own; leave out {weights}."
        )
    encoder = load_service(address, device=device)
    if output not in (None, encoder.spec.output):
        raise ValueError(
            f"encoder {address}: the service returns {encoder.spec.output!r}, not {output!r}; "
            "leave the output out, or choose another service."
        )
    return encoder


def _load_network(
    name: str, weights: Path | None, output: Output | None, *, trust_remote_code: bool
) -> tuple[EncoderSpec, nn.Module]:
    """Load a network with its weights, and its description."""
    if name.startswith("timm:"):
        return load_timm_encoder(name, weights=weights, output=output)
    if card := find_card(name):
        if card.id not in _PUBLISHED:
            return load_published(
                card, weights=weights, output=output, trust_remote_code=trust_remote_code
            )
        card.spec(output)  # checks the output
        return _PUBLISHED[card.id](weights)
    if name not in _RANDOM:
        raise unknown_encoder(name)
    if weights is not None:
        raise ValueError(f"encoder {name!r} has random weights, so it cannot use {weights}.")
    if output not in (None, "pooled"):
        raise ValueError(f"encoder {name} has no output {output!r}; choose pooled.")
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
    return TEST_CARDS["resnet50-layer3-random"].spec(weights_hash=RANDOM), network


def _tiny() -> tuple[EncoderSpec, nn.Module]:
    network = _build_empty(TinyNetwork)
    fill_randomly(network, seed=0)
    return TEST_CARDS["tiny"].spec(weights_hash=RANDOM), network


_PUBLISHED: dict[str, Callable[[Path | None], tuple[EncoderSpec, nn.Module]]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "resnet50-layer3": _resnet50_layer3,
}
_RANDOM: dict[str, Callable[[], tuple[EncoderSpec, nn.Module]]] = {
    "resnet50-layer3-random": _resnet50_layer3_random,
    "tiny": _tiny,
}


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
