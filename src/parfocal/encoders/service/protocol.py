"""The messages between an encoder service and its clients; docs/encoder-service.md describes them.

Bodies are in the format of safetensors, so lengths and shapes are checked when they are parsed, and
nothing is unpickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor

from parfocal.encoders.spec import EncoderSpec
from parfocal.validation import validate

FORMAT = "parfocal encoder service"
FORMAT_VERSION = 1
BODY_TYPE = "application/octet-stream"
WEIGHTS_HEADER = "X-Weights-Hash"
PATCHES, FEATURES = "patches", "features"  # names of the tensors
FEATURE_TYPES = (torch.float16, torch.float32)

MAX_DESCRIPTION_BYTES = 2**16
MAX_REQUEST_BYTES = 2**26  # 64 MiB, 341 patches of 256 px
HEADER_BYTES = 2**12  # more than the header of safetensors with one tensor takes
MAX_BATCH_SIZE, DEFAULT_BATCH_SIZE = 1024, 32
MAX_REQUESTS, DEFAULT_REQUESTS = 32, 4


class ProtocolError(Exception):
    """A message that does not follow the protocol; the text says what was found."""


class NotFiniteError(ProtocolError):
    """An answer with features that are not finite."""


@dataclass(frozen=True)
class Limits:
    """How a client sends patches.

    Args:
        batch_size: number of patches per request.
        requests: number of requests at the same time.
    """

    batch_size: int = DEFAULT_BATCH_SIZE
    requests: int = DEFAULT_REQUESTS

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, limit in (("batch_size", MAX_BATCH_SIZE), ("requests", MAX_REQUESTS)):
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(f"{name}: {getattr(self, name)} is not in 1..{limit}")


@dataclass(frozen=True)
class Description:
    """What a service says about its encoder.

    Args:
        encoder: the encoder.
        macs_per_patch: multiply-accumulates per patch; None if the service does not say.
        limits: how a client sends patches.
    """

    encoder: EncoderSpec
    macs_per_patch: int | None
    limits: Limits

    def __post_init__(self) -> None:
        """Check what features are compared by."""
        if not self.encoder.weights_hash:
            raise ValueError("encoder.weights_hash: empty")
        if self.macs_per_patch is not None and self.macs_per_patch < 0:
            raise ValueError(f"macs_per_patch: {self.macs_per_patch} is negative")

    def to_json(self) -> bytes:
        """Return the description as the service sends it."""
        encoder = self.encoder.to_dict()
        encoder.pop("address", None)  # for example of a service behind this one
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "encoder": encoder,
            "macs_per_patch": self.macs_per_patch,
            **asdict(self.limits),
        }
        return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def parse_description(body: bytes) -> Description:
    """Parse the description of a service; keys that are not known are ignored.

    Raises:
        ProtocolError: it is not a description, of a newer version, or has a wrong value.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolError("it did not describe itself in JSON") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ProtocolError(f"its description is not of the format {FORMAT!r}")
    if content.get("format_version") != FORMAT_VERSION:
        raise ProtocolError(
            f"its protocol has version {content.get('format_version')!r}, and this parfocal reads "
            f"version {FORMAT_VERSION}"
        )
    try:
        limits = validate(Limits, _known(Limits, content))
        macs = content.get("macs_per_patch")
        if macs is not None and (isinstance(macs, bool) or not isinstance(macs, int)):
            raise ValueError(f"macs_per_patch: {macs!r} is not a whole number")
        given = content.get("encoder")
        if not isinstance(given, dict):
            raise ValueError(f"encoder: {given!r} is not a mapping")
        spec = EncoderSpec.from_dict({**given, "address": ""})  # the client knows the address
        return Description(spec, macs, limits)
    except KeyError as error:
        raise ProtocolError(f"its description lacks encoder.{error.args[0]}") from None
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"its description is wrong ({error})") from None


def patches_body(patches: UInt8[np.ndarray, "n h w 3"]) -> bytes:
    """Return the body of a request."""
    return safetensors.torch.save({PATCHES: _tensor(patches)})


def parse_patches(body: bytes) -> UInt8[np.ndarray, "n h w 3"]:
    """Parse the body of a request.

    Raises:
        ProtocolError: it is not a request for features.
    """
    tensor = _single(body, PATCHES)
    if tensor.dtype != torch.uint8 or tensor.ndim != 4 or tensor.shape[3] != 3:
        raise ProtocolError(
            f"patches have type {_type_name(tensor)} and shape {tuple(tensor.shape)}, expected "
            "uint8 and (n, height, width, 3)"
        )
    if 0 in tensor.shape:
        raise ProtocolError(f"patches of shape {tuple(tensor.shape)} have no pixels")
    patches: UInt8[np.ndarray, "n h w 3"] = tensor.numpy()
    return patches


def features_body(features: Float[Tensor, "n d"]) -> bytes:
    """Return the body of an answer."""
    return safetensors.torch.save({FEATURES: features.cpu().contiguous()})


def parse_features(body: bytes, *, count: int, dim: int) -> Float[Tensor, "n d"]:
    """Parse the body of an answer.

    Args:
        body: the body.
        count: number of patches sent.
        dim: number of features per patch that the service has described.

    Returns:
        The features in float32.

    Raises:
        ProtocolError: they have another shape or type, or are not finite.
    """
    tensor = _single(body, FEATURES)
    if tensor.dtype not in FEATURE_TYPES:
        raise ProtocolError(f"features have type {_type_name(tensor)}, expected float16 or float32")
    if tuple(tensor.shape) != (count, dim):
        raise ProtocolError(
            f"features have shape {tuple(tensor.shape)}, expected ({count}, {dim}) for {count} "
            "patches"
        )
    if not tensor.isfinite().all():
        raise NotFiniteError("features of a batch are not finite")
    return tensor.float()


def max_answer_bytes(count: int, dim: int) -> int:
    """Return the number of bytes that the features of `count` patches take at most."""
    return count * dim * 4 + HEADER_BYTES


def _single(body: bytes, name: str) -> Tensor:
    """Return the one tensor of a body."""
    try:
        tensors = safetensors.torch.load(body)
    except (SafetensorError, ValueError, KeyError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise ProtocolError(f"a body is not in safetensors format ({text})") from None
    if list(tensors) != [name]:
        found = ", ".join(sorted(tensors)) or "none"
        raise ProtocolError(f"a body has the tensors {found[:100]}, expected {name}")
    return tensors[name]


def _known(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are fields of a dataclass."""
    return {field.name: given[field.name] for field in fields(kind) if field.name in given}


def _type_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _tensor(patches: UInt8[np.ndarray, "n h w 3"]) -> Tensor:
    return torch.from_numpy(np.require(patches, requirements=["C", "W"]))
