"""Predictions, and the slides they are of, in a browser: a server on this machine, and its page."""

from parfocal.explain.viewer.library import Library, ViewError, gather
from parfocal.explain.viewer.server import address_of, build_app, is_loopback, listen, serve

__all__ = [
    "Library",
    "ViewError",
    "address_of",
    "build_app",
    "gather",
    "is_loopback",
    "listen",
    "serve",
]
