"""Networks by name from timm, the one file that imports it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from parfocal.encoders.weights import EncoderError, check_exists, first_line

RESNET50 = "resnet50.tv_in1k"
AS_A_FILE = "--set encoder.weights=FILE, or with extract --weights FILE"


@dataclass(frozen=True)
class HubNetwork:
    """A network with its weights, and how it wants to be fed."""

    network: nn.Module
    dim: int
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    license: str


def load_timm(name: str, *, weights: Path | None = None, pretrained: bool = True) -> HubNetwork:
    """Load a network without its classifier.

    Args:
        name: as timm lists it, or `hf-hub:OWNER/NAME`.
        weights: of that network, in a file; None for the published ones.
        pretrained: False leaves the weights random, and fetches none.

    Raises:
        EncoderError: timm cannot be imported, does not know the name, or gets no weights.
    """
    timm = _import_timm(
        f"timm:{name}",
        "take efficientnet-lite0, which comes with parfocal; where a paper has another network, "
        "that departs from it.",
    )
    network = _create(timm, name, weights, pretrained=pretrained)
    config = timm.data.resolve_model_data_config(network)
    size = config["input_size"][-1]
    with torch.inference_mode():
        dim = network.eval()(torch.zeros(1, 3, size, size)).shape[1]
    return HubNetwork(
        network=network,
        dim=dim,
        input_size=size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        # timm also knows lanczos, which torch does not; bicubic is the nearest.
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        license=getattr(network, "pretrained_cfg", {}).get("license") or "see its model card",
    )


def load_resnet50() -> Mapping[str, Tensor]:
    """Load the ImageNet weights of ResNet-50 that torchvision published, through timm.

    Raises:
        EncoderError: timm cannot be imported, or gets no weights.
    """
    timm = _import_timm(
        "resnet50-layer3",
        f"give torchvision's or timm's resnet50 as a file: {AS_A_FILE}.",
    )
    weights: Mapping[str, Tensor] = _create(timm, RESNET50, None).state_dict()
    return weights


def _import_timm(network: str, otherwise: str) -> ModuleType:
    try:
        import timm  # noqa: PLC0415 (optional, and seconds to import)
    # A torchvision that does not match torch raises RuntimeError, among others.
    except Exception as error:
        minor = int(torch.__version__.split(".")[1])
        raise EncoderError(
            f"{network}: timm cannot be imported ({type(error).__name__}: {first_line(error)}). "
            f"Install it with the torchvision made for torch {torch.__version__}: pip install "
            f"timm 'torchvision==0.{minor + 15}.*'. Or {otherwise}"
        ) from error
    return timm  # type: ignore[no-any-return]


def _create(
    timm: ModuleType, name: str, weights: Path | None, *, pretrained: bool = True
) -> nn.Module:
    """Make a network without its classifier."""
    overlay = {}
    if weights is not None:
        overlay = {"file": str(check_exists(weights))}
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=0, pretrained_cfg_overlay=overlay
        )
    # What timm, the hub's client and its HTTP library raise has no common name.
    except Exception as error:
        raise EncoderError(
            f"timm:{name}: timm could not make it ({type(error).__name__}: {first_line(error)}). "
            "Check the name (timm.list_models(pretrained=True) lists them), the connection and, "
            f"for a gated model, HF_TOKEN; or give its weights as a file: {AS_A_FILE}; a model's "
            "backbone takes it as timm:NAME=FILE."
        ) from error
    return network
