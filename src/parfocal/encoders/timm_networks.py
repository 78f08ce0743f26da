"""Load networks from timm by name. The only module that imports timm."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from parfocal.encoders.card import ArgumentValue, EncoderCard
from parfocal.encoders.catalog import find_card
from parfocal.encoders.conv_stem import ConvStem
from parfocal.encoders.hub import cached_files, download, unavailable, weights_files
from parfocal.encoders.load_guards import recorded_loads, tensors_only
from parfocal.encoders.pooling import PublishedNetwork
from parfocal.encoders.weights import (
    WEIGHTS_OPTION,
    EncoderError,
    MissingPackageError,
    first_line,
    read_weights,
)

RESNET50 = "resnet50.tv_in1k"
HUB_PREFIXES = ("hf-hub:", "hf_hub:")
FOLDER_PREFIX = "local-dir:"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TimmNetwork:
    """A network from timm and its preparation of pixels.

    Args:
        network: network with weights, without its classifier.
        dim: features per patch, or per token if it returns tokens.
        tokens: number of axes of its output between the images and the features: 0 for vectors, 1
            for tokens, 2 for a feature map.
        input_size: height and width of its input, in pixels.
        mean: mean of red, green and blue, in 0..1, that is subtracted.
        std: standard deviation of red, green and blue, in 0..1, to divide by.
        interpolation: "bilinear" or "bicubic".
        license: license of the weights.
        files: files of the weights; none if unknown.
        channels_last: whether its feature map has the features on the last axis.
    """

    network: nn.Module
    dim: int
    tokens: int
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    license: str
    files: tuple[Path, ...] = ()
    channels_last: bool = False


def load_timm(name: str, *, weights: Path | None = None, pretrained: bool = True) -> TimmNetwork:
    """Load a network from timm, without its classifier.

    Args:
        name: name of the network in timm, `hf-hub:OWNER/NAME`, or `local-dir:PATH`.
        weights: file or folder with weights of that network; None for the published weights.
        pretrained: whether to load weights; if False, they are random and nothing is downloaded.

    Raises:
        EncoderError: timm cannot be imported, does not know the name, or cannot get the weights.
    """
    timm = _import_timm(
        f"timm:{name}",
        "use efficientnet-lite0, which is installed with parfocal; to reproduce a paper that uses "
        "another network, this is a difference.",
    )
    card = _card_of(name)
    arguments = {} if card is None else dict(card.arguments)
    if weights is not None and weights.is_dir():
        name, weights = f"{FOLDER_PREFIX}{weights}", None
    network, files = _create(timm, name, arguments, weights=weights, pretrained=pretrained)
    config = timm.data.resolve_model_data_config(network)
    size = config["input_size"][-1]
    with torch.inference_mode():
        shape = network.eval()(torch.zeros(1, 3, size, size)).shape
    channels_last = len(shape) == 4 and shape[-1] == getattr(network, "num_features", None)
    return TimmNetwork(
        network=network,
        dim=shape[-1] if channels_last or len(shape) == 3 else shape[1],
        tokens=len(shape) - 2,
        input_size=size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        # timm has lanczos, too, which torch has not; bicubic is the closest.
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        license=getattr(network, "pretrained_cfg", {}).get("license") or "see its model card",
        files=files,
        channels_last=channels_last,
    )


def load_card_from_timm(
    card: EncoderCard, *, weights: Path | None = None, pooled: bool = False
) -> PublishedNetwork:
    """Load the network of a published encoder, without its classifier.

    Args:
        card: the encoder.
        weights: its weights file, or the folder of its repository; None to get them from the Hub.
        pooled: whether to return the network's pooled output instead of its tokens.

    Raises:
        EncoderError: timm cannot be imported, or the weights are missing or of another network.
    """
    others = (
        "choose an encoder that does not need it (`parfocal encoders`). "
        f"`parfocal encoders {card.id}` says how to get its weights."
    )
    timm = _import_timm(card.id, others)
    if weights is None and card.weights_file:
        weights = download(card)
    name, arguments = f"hf-hub:{card.hub}", card.arguments
    if weights is not None and weights.is_dir() and (weights / "config.json").is_file():
        name, weights = f"{FOLDER_PREFIX}{weights}", None
    elif weights is not None:
        weights = _only_file(card.id, weights) if weights.is_dir() else weights
        name, arguments = card.architecture, card.file_arguments
    network, files = _create(timm, name, arguments, weights=weights, card=card)
    return PublishedNetwork(
        network.eval(),
        network.__call__ if pooled else network.forward_features,  # type: ignore[arg-type]
        files,
        getattr(network, "num_features", None),
        None if pooled else getattr(network, "num_prefix_tokens", None),
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
    weights: Mapping[str, Tensor] = _create(timm, RESNET50, {})[0].state_dict()
    return weights


def _import_timm(network: str, alternative: str) -> ModuleType:
    """Import timm, or raise an error that says how to install it or what else to do."""
    try:
        import timm  # noqa: PLC0415 (optional, and seconds to import)
    # Not only ImportError: a torchvision that does not match torch raises RuntimeError.
    except Exception as error:
        minor = int(torch.__version__.split(".")[1])
        raise MissingPackageError(
            f"{network}: timm cannot be imported ({type(error).__name__}: {first_line(error)}). "
            f"Install it with the torchvision made for torch {torch.__version__}: pip install "
            f"'parfocal[timm]' 'torchvision==0.{minor + 15}.*'.",
            alternative,
        ) from error
    return timm  # type: ignore[no-any-return]


def _create(
    timm: ModuleType,
    name: str,
    arguments: Mapping[str, ArgumentValue],
    *,
    weights: Path | None = None,
    pretrained: bool = True,
    card: EncoderCard | None = None,
) -> tuple[nn.Module, tuple[Path, ...]]:
    """Create a network without its classifier; return it and the files of its weights."""
    files = (weights,) if weights is not None else _files_of(name)
    overlay: dict[str, Any] = {}
    if weights is not None or name.startswith(FOLDER_PREFIX):
        # Read here, because older versions of timm run what is pickled in a local file.
        if not files:
            raise _no_weights(name)
        tensors: dict[str, Tensor] = {}
        for file in files:
            tensors |= read_weights(file)
        overlay = {"state_dict": tensors}
    try:
        with tensors_only(), recorded_loads() as missing:
            network: nn.Module = timm.create_model(
                name,
                pretrained=pretrained,
                num_classes=0,
                pretrained_cfg_overlay=overlay,
                **_translate(timm, _own_arguments(name, arguments)),
            )
    # The errors of timm, the Hub client and its HTTP library have no common base class.
    except Exception as error:
        raise _creation_error(timm, name, error, files=files, card=card) from error
    parameters = {key for key, _ in network.named_parameters()}
    if absent := [key for key in missing if key in parameters]:
        raise EncoderError(
            f"{_subject(name, card)}: {len(absent)} of {len(parameters)} tensors are missing from "
            f"{files[0] if files else 'the weights'}, first {absent[0]!r}. Give weights of that "
            "network."
        )
    if isinstance(config := getattr(network, "pretrained_cfg", None), dict):
        config.pop("state_dict", None)  # would keep a second copy of the weights
    return network, files


def _repository_of(name: str) -> str:
    """Return the repository on the Hub that a name of timm names; empty for other names."""
    return next((name.removeprefix(each) for each in HUB_PREFIXES if name.startswith(each)), "")


def _files_of(name: str) -> tuple[Path, ...]:
    """Return the weights files that a name leads to, as far as they are known."""
    if name.startswith(FOLDER_PREFIX):
        folder = Path(name.removeprefix(FOLDER_PREFIX))
        if not folder.is_dir():
            raise EncoderError(f"timm:{name}: no such folder; check the path after local-dir:.")
        return tuple(weights_files(folder))
    repository = _repository_of(name)
    return tuple(cached_files(repository.split("@")[0])) if repository else ()


def _only_file(subject: str, folder: Path) -> Path:
    """Return the one weights file of a folder that has no config.json."""
    files = weights_files(folder)
    if len(files) != 1:
        raise EncoderError(
            f"{subject}: {folder} has no config.json and {len(files)} weights files; give the "
            f"weights file itself, or the folder with its config.json: {WEIGHTS_OPTION}."
        )
    return files[0]


def _no_weights(name: str) -> EncoderError:
    return EncoderError(
        f"timm:{name}: no weights in that folder; it needs config.json and model.safetensors or "
        "pytorch_model.bin, as they are on the Hub."
    )


def _own_arguments(
    name: str, arguments: Mapping[str, ArgumentValue]
) -> Mapping[str, ArgumentValue]:
    """Return the arguments of a network without those that the config in a folder states."""
    if not name.startswith(FOLDER_PREFIX):
        return arguments
    try:
        config = json.loads((Path(name.removeprefix(FOLDER_PREFIX)) / "config.json").read_bytes())
        stated = set(config.get("model_args") or {})
    except (OSError, ValueError, AttributeError):
        return arguments  # timm reports the missing or damaged config
    return {key: value for key, value in arguments.items() if key not in stated}


def _translate(timm: ModuleType, arguments: Mapping[str, ArgumentValue]) -> dict[str, Any]:
    """Replace the names of layers by their classes."""
    classes = {"SiLU": nn.SiLU, "ConvStem": ConvStem}
    if "SwiGLUPacked" in arguments.values():
        classes["SwiGLUPacked"] = timm.layers.SwiGLUPacked
    return {
        key: classes[value] if isinstance(value, str) and value in classes else value
        for key, value in arguments.items()
    }


def _card_of(name: str) -> EncoderCard | None:
    """Return the card of a network that is named by its repository on the Hub."""
    repository = _repository_of(name)
    card = find_card(repository.split("@")[0]) if repository else None
    if card is None or card.loader != "timm":
        return None
    logger.warning(
        "timm:%s is prepared as timm's config says; the name %s prepares patches as its authors do",
        name,
        card.id,
    )
    return card


def _subject(name: str, card: EncoderCard | None) -> str:
    return f"timm:{name}" if card is None else card.id


def _creation_error(
    timm: ModuleType,
    name: str,
    error: Exception,
    *,
    files: tuple[Path, ...],
    card: EncoderCard | None,
) -> EncoderError:
    """Return an error that says why timm could not create a network, and what to do."""
    subject, quoted = _subject(name, card), f"{type(error).__name__}: {first_line(error)}"
    if "loading state_dict" in str(error):
        source = files[0] if files else "the weights"
        detail = str(error).split("\n\t")[1].strip() if "\n\t" in str(error) else quoted
        return EncoderError(
            f"{subject}: {source} does not fit the network ({detail[:200]}). Give weights of that "
            "network. For an encoder listed by `parfocal encoders`, use its name there: that "
            "name sets the arguments that timm needs."
        )
    repository = _repository_of(name)
    if repository or (card is not None and not files):
        known = card or find_card(repository.split("@")[0])
        return unavailable(subject, error, card=known, repository=repository)
    if files and "Unknown model" not in quoted:
        return EncoderError(
            f"{subject}: {files[0]} cannot be loaded ({quoted}). Give weights of that network."
        )
    near = get_close_matches(name, timm.list_models()) if "Unknown model" in quoted else []
    similar = f"Similar names: {', '.join(near)}. " if near else ""
    return EncoderError(
        f"{subject}: timm could not create it ({quoted}). {similar}"
        "Check the name (timm.list_models(pretrained=True) lists them), the connection and, "
        f"for a gated model, HF_TOKEN. Or give its weights as a file: {WEIGHTS_OPTION}, or for "
        "the backbone of a model as timm:NAME=FILE."
    )
