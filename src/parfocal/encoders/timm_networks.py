"""Load networks from timm by name. The only module that imports timm."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from parfocal.encoders.weights import EncoderError, check_exists, first_line

RESNET50 = "resnet50.tv_in1k"
WEIGHTS_OPTION = "--set encoder.weights=FILE, or with extract --weights FILE"


@dataclass(frozen=True)
class TimmNetwork:
    """A network from timm and its preparation of pixels.

    Args:
        network: network with weights, without its classifier.
        dim: features per patch.
        input_size: height and width of its input, in pixels.
        mean: mean of red, green and blue, in 0..1, that is subtracted.
        std: standard deviation of red, green and blue, in 0..1, to divide by.
        interpolation: "bilinear" or "bicubic".
        license: license of the weights.
    """

    network: nn.Module
    dim: int
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    license: str


def load_timm(name: str, *, weights: Path | None = None, pretrained: bool = True) -> TimmNetwork:
    """Load a network from timm, without its classifier.

    Args:
        name: name of the network in timm, or `hf-hub:OWNER/NAME`.
        weights: file with weights of that network; None for the published weights.
        pretrained: whether to load weights; if False, they are random and nothing is downloaded.

    Raises:
        EncoderError: timm cannot be imported, does not know the name, or cannot get the weights.
    """
    timm = _import_timm(
        f"timm:{name}",
        "use efficientnet-lite0, which is installed with parfocal; to reproduce a paper that uses "
        "another network, this is a difference.",
    )
    network = _create(timm, name, weights, pretrained=pretrained)
    config = timm.data.resolve_model_data_config(network)
    size = config["input_size"][-1]
    with torch.inference_mode():
        dim = network.eval()(torch.zeros(1, 3, size, size)).shape[1]
    return TimmNetwork(
        network=network,
        dim=dim,
        input_size=size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        # timm has lanczos, too, which torch has not; bicubic is the closest.
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        license=getattr(network, "pretrained_cfg", {}).get("license") or "see its model card",
    )


def load_resnet50() -> Mapping[str, Tensor]:
    """Load torchvision's ImageNet weights of ResNet-50, through timm.

    Raises:
        EncoderError: timm cannot be imported, or cannot get the weights.
    """
    timm = _import_timm(
        "resnet50-layer3",
        f"give the weights of resnet50 from torchvision or timm as a file: {WEIGHTS_OPTION}.",
    )
    weights: Mapping[str, Tensor] = _create(timm, RESNET50, None).state_dict()
    return weights


def _import_timm(network: str, alternative: str) -> ModuleType:
    """Import timm, or raise an error that says how to install it or what else to do."""
    try:
        import timm  # noqa: PLC0415 (optional, and seconds to import)
    # Not only ImportError: a torchvision that does not match torch raises RuntimeError.
    except Exception as error:
        minor = int(torch.__version__.split(".")[1])
        raise EncoderError(
            f"{network}: timm cannot be imported ({type(error).__name__}: {first_line(error)}). "
            f"Install it with the torchvision made for torch {torch.__version__}: pip install "
            f"timm 'torchvision==0.{minor + 15}.*'. Or {alternative}"
        ) from error
    return timm  # type: ignore[no-any-return]


def _create(
    timm: ModuleType, name: str, weights: Path | None, *, pretrained: bool = True
) -> nn.Module:
    """Create a network without its classifier."""
    overlay = {} if weights is None else {"file": str(check_exists(weights))}
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=0, pretrained_cfg_overlay=overlay
        )
    # The errors of timm, the hub client and its HTTP library have no common base class.
    except Exception as error:
        raise EncoderError(
            f"timm:{name}: timm could not create it ({type(error).__name__}: {first_line(error)}). "
            "Check the name (timm.list_models(pretrained=True) lists them), the connection and, "
            f"for a gated model, HF_TOKEN. Or give its weights as a file: {WEIGHTS_OPTION}, or for "
            "the backbone of a model as timm:NAME=FILE."
        ) from error
    return network
