"""Show predictions and their slides in a browser: a local server and its pages."""

from parfocal.explain.viewer.server import (
    ViewError,
    address_of,
    build_app,
    is_loopback,
    listen,
    serve,
)

__all__ = ["ViewError", "address_of", "build_app", "is_loopback", "listen", "serve"]
