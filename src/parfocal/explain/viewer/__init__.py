"""Predictions, and the slides they are of, in a browser: a server on this machine, and its page."""

from parfocal.explain.viewer.server import (
    ViewError,
    address_of,
    build_app,
    is_loopback,
    listen,
    serve,
)

__all__ = ["ViewError", "address_of", "build_app", "is_loopback", "listen", "serve"]
