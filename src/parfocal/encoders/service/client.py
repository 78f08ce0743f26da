"""An encoder that runs on another computer: patches are sent there, and features come back."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from parfocal.encoders.device import choose_device
from parfocal.encoders.service.connection import (
    REMEDY,
    PatchesError,
    Patience,
    ServiceConnections,
    ServiceError,
    parse_address,
)
from parfocal.encoders.service.protocol import (
    BODY_TYPE,
    HEADER_BYTES,
    MAX_DESCRIPTION_BYTES,
    MAX_REQUEST_BYTES,
    WEIGHTS_HEADER,
    Description,
    NotFiniteError,
    ProtocolError,
    max_answer_bytes,
    parse_description,
    parse_features,
    patches_body,
)

logger = logging.getLogger(__name__)


class ServiceEncoder:
    """Computes feature vectors of patches in a service; see `Encoder`.

    Batches are sent side by side. The weights that computed the features are checked in every
    answer, so a service that changes them is refused.

    Args:
        connections: connections to the service.
        description: what the service says about its encoder.
        device: device of the features.
    """

    def __init__(
        self, connections: ServiceConnections, description: Description, *, device: str = "cpu"
    ) -> None:
        self.spec = replace(description.encoder, address=connections.address.text)
        self.device = torch.device(device)
        self.batch_size = description.limits.batch_size
        self.workers = description.limits.requests
        self._connections, self._macs = connections, description.macs_per_patch

    def __call__(self, patches: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n d"]:
        """Return the features of patches.

        Args:
            patches: pixels in 0..255.

        Returns:
            Features in float32, on the encoder's device.

        Raises:
            ServiceError: the service does not answer, or not as it has described itself.
            PatchesError: the service cannot encode these patches.
        """
        size = self._patches_per_request(patches)
        batches = [patches[start : start + size] for start in range(0, len(patches), size)]
        if len(batches) > 1:
            with ThreadPoolExecutor(min(self.workers, len(batches))) as pool:
                parts = list(pool.map(self._encode, batches))
        else:
            parts = [self._encode(batch) for batch in batches]
        features = torch.cat(parts) if parts else torch.empty(0, self.spec.dim)
        return features.to(self.device)

    def macs_per_patch(self) -> int | None:
        """Return the multiply-accumulates of one patch; None if the service does not say."""
        return self._macs

    def _patches_per_request(self, patches: UInt8[np.ndarray, "n h w 3"]) -> int:
        fitting = (MAX_REQUEST_BYTES - HEADER_BYTES) // max(1, int(np.prod(patches.shape[1:])))
        if not fitting:
            raise ValueError(
                f"patches of {patches.shape[1]} x {patches.shape[2]} pixels are too large to be "
                "sent; choose a smaller slide.patch_size."
            )
        return min(self.batch_size, fitting)

    def _encode(self, patches: UInt8[np.ndarray, "n h w 3"]) -> Float[Tensor, "n d"]:
        answer = self._connections.request(
            "POST",
            patches_body(patches),
            max_bytes=max_answer_bytes(len(patches), self.spec.dim),
            content_type=BODY_TYPE,
        )
        self._check_weights(answer.headers.get(WEIGHTS_HEADER.lower()))
        try:
            return parse_features(answer.body, count=len(patches), dim=self.spec.dim)
        except NotFiniteError as error:  # of these patches, so of this slide
            raise PatchesError(f"encoder at {self.spec.address}: {error}.") from None
        except ProtocolError as error:
            raise self._connections.error(f"its answer is refused: {error}") from None

    def _check_weights(self, found: str | None) -> None:
        if found != self.spec.weights_hash:
            raise self._connections.error(
                f"its answer is of weights {'unknown' if found is None else found[:80]!r}, and the "
                f"service has described {self.spec.weights_hash!r}. Keep one set of weights during "
                "a run, and run the command again"
            )


def load_service(
    address: str, *, device: str = "cpu", patience: Patience | None = None
) -> ServiceEncoder:
    """Connect to an encoder service and return its encoder.

    Args:
        address: address of the service, such as http://HOST:PORT/.
        device: device of the features: "auto", "cpu", "cuda" or "cuda:1".
        patience: how long to wait for answers; None for the default.

    Raises:
        ValueError: the address or the device is wrong.
        ServiceError: the service does not answer, or does not describe an encoder.
    """
    connections = ServiceConnections(parse_address(address), patience or Patience())
    answer = connections.request("GET", max_bytes=MAX_DESCRIPTION_BYTES)
    try:
        description = parse_description(answer.body)
    except ProtocolError as error:
        raise connections.error(f"not an encoder service: {error}. {REMEDY}") from None
    logger.info("%s: patches are sent to %s", description.encoder.name, address)
    return ServiceEncoder(connections, description, device=str(choose_device(device)))


__all__ = ["ServiceEncoder", "ServiceError", "load_service"]
