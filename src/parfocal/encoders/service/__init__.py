"""Encoder services: a client, and a server for the encoders of this machine."""

from parfocal.encoders.service.client import ServiceEncoder, load_service
from parfocal.encoders.service.connection import (
    PatchesError,
    Patience,
    ServiceError,
    is_address,
)

__all__ = [
    "PatchesError",
    "Patience",
    "ServiceEncoder",
    "ServiceError",
    "is_address",
    "load_service",
]
