"""The server of the viewer: read-only, local, and limited to the slides of its library.

Names in a URL are looked up in the library and never become part of a path. Only GET and HEAD are
answered.
"""

import errno
import json
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parfocal.dataset.cohort import CohortError
from parfocal.dataset.lesions import read_on_scan
from parfocal.explain.library import Library, ListedSlide, PredictionSummary
from parfocal.explain.read_record import RecordError, read_prediction
from parfocal.explain.viewer.connections import run_server
from parfocal.explain.viewer.pyramid import TILE_PX, Pyramids, is_possible, levels
from parfocal.slide.errors import SlideError
from parfocal.slide.failure import catch_failure

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
OPENSEADRAGON_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="  # its <style>
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self' '{OPENSEADRAGON_STYLE}'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NO_CACHE = {"Cache-Control": "no-cache"}
# A key depends on the fingerprint of the file, so the pixels behind it never change.
LONG_CACHE = {"Cache-Control": "private, max-age=86400"}
MAX_DIGITS = 9  # of a tile coordinate
HOST_NAME = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


class ViewError(Exception):
    """A viewer that cannot be served."""


class AsciiJson(JSONResponse):
    """JSON in ASCII, so that a path with bytes that are not UTF-8 can be sent."""

    def render(self, content: object) -> bytes:
        """Return the text of the response."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def build_app(
    library: Library, *, any_host: bool = False, allowed_hosts: Sequence[str] = ()
) -> Starlette:
    """Build the web application that serves a library.

    Args:
        library: slides and predictions to serve.
        any_host: whether to accept requests for any host name. If False, only the names of this
            machine are accepted, which prevents DNS rebinding attacks.
        allowed_hosts: further names to accept, such as the one of a proxy; "*.example.org" stands
            for all names in a domain.

    Raises:
        ViewError: a name is not a host name.
    """
    for name in allowed_hosts:
        if not HOST_NAME.fullmatch(name):
            raise ViewError(
                f"{name!r} is not a host name; give --allow-host a name without port and path, as "
                "hub.example.org or *.example.org."
            )
    views = _Views(library, Pyramids())
    page = _static()
    routes = [
        Route("/", page("list.html")),
        Route("/slides/{slide}", views.slide_page(page("slide.html"))),
        Route("/api/slides", views.slides),
        Route("/api/slides/{slide}", views.slide),
        Route("/api/slides/{slide}/predictions/{prediction}", views.prediction),
        Route("/thumbnails/{slide}", views.thumbnail),
        Route("/tiles/{slide}/{level}/{column}/{row}", views.tile),
        Route("/static/{name:path}", page()),
    ]
    hosts = ["*"] if any_host else [*LOOPBACK, "[::1]", *allowed_hosts]
    middleware = [
        Middleware(_SecurityHeaders),
        Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
    ]
    app = Starlette(routes=routes, middleware=middleware)
    app.router.redirect_slashes = False  # a redirect could lead to another site
    return app


def listen(host: str, port: int) -> socket.socket:
    """Open a socket that listens on an address.

    Args:
        host: IP address or name of this machine.
        port: port number; 0 for any free port.

    Raises:
        ViewError: the port is in use, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ViewError(
                f"port {port} of {host} is in use by another program; choose "
                "another with --port (0 for any free port)."
            ) from None
        raise ViewError(
            f"cannot listen on {host}, port {port} ({error.strerror}); give an address of this "
            "machine and a port you may use."
        ) from None


def address_of(listening: socket.socket) -> str:
    """Return the URL for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # listens on all addresses
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def serve(library: Library, listening: socket.socket, *, allowed_hosts: Sequence[str] = ()) -> None:
    """Serve a library until interrupted with Ctrl-C.

    Args:
        library: slides and predictions to serve.
        listening: socket to serve on.
        allowed_hosts: see `build_app`.

    Raises:
        ViewError: a name is not a host name.
    """
    any_host = not is_loopback(listening.getsockname()[0])
    app = build_app(library, any_host=any_host, allowed_hosts=allowed_hosts)
    with suppress(KeyboardInterrupt):  # the usual way to stop the server
        run_server(app, listening)


class _SecurityHeaders:
    """Middleware that adds the security headers to every response, including errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class _Views:
    """The endpoints; each request is handled in a thread of its own."""

    def __init__(self, library: Library, pyramids: Pyramids) -> None:
        self._library, self._pyramids = library, pyramids

    def slide_page(self, page: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Return the page of a slide, with status 404 if there is no such slide."""

        def view(request: Request) -> Response:
            response = page(request)
            if self._slide(request) is None:
                response.status_code = 404
            return response

        return view

    def slides(self, request: Request) -> Response:
        """Return all slides with their predictions, without regions."""
        content = {
            "slides": [_facts(slide) for slide in self._library.slides.values()],
            "failed": [asdict(slide) for slide in self._library.failed],
            "problems": self._library.problems,
        }
        return AsciiJson(content, headers=NO_CACHE)

    def slide(self, request: Request) -> Response:
        """Return one slide, with its tiling and its outlines."""
        slide = self._slide(request)
        if slide is None:
            return _missing("no such slide")
        if not is_possible(slide.size):
            return _impossible(slide)
        tiles = {"size": TILE_PX, "levels": levels(slide.size)}
        facts = _facts(slide) | {"mpp": slide.mpp, "tiles": tiles, "outlines": []}
        facts["siblings"] = [
            _summary(part) | {"of": prediction.key, "slide": other.key, "id": other.id}
            for prediction in slide.predictions
            for other, part in self._library.siblings(slide, prediction)
        ]
        if slide.truth.outlines is not None:
            try:
                path = slide.path or Path(slide.id)
                polygons = read_on_scan(slide.truth.outlines, path, slide.size).polygons
            except (CohortError, SlideError) as error:
                facts["outlines_problem"] = str(error)
            else:
                rings = [[polygon.outer, *polygon.holes] for polygon in polygons]
                facts["outlines"] = [[ring.tolist() for ring in each] for each in rings]
        return AsciiJson(facts, headers=NO_CACHE)

    def prediction(self, request: Request) -> Response:
        """Return the record of a prediction, in the current format version."""
        slide, key = self._slide(request), request.path_params["prediction"]
        listed = [each for each in slide.predictions if each.key == key] if slide else []
        if not listed:
            return _missing("no such prediction")
        try:
            record = read_prediction(listed[0].path)
        except RecordError as error:
            return _missing(str(error))
        return AsciiJson(record.to_dict(), headers=NO_CACHE)

    def thumbnail(self, request: Request) -> Response:
        """Return a thumbnail of a slide."""
        slide = self._slide(request)
        if slide is not None and not is_possible(slide.size):
            return _impossible(slide)
        return _jpeg(lambda: None if slide is None else self._pyramids.thumbnail(slide))

    def tile(self, request: Request) -> Response:
        """Return a tile of a slide."""
        slide = self._slide(request)
        level, column, row = (
            _number(request.path_params[name]) for name in ("level", "column", "row")
        )
        if slide is None or level is None or column is None or row is None:
            return _missing("no such tile")
        if not is_possible(slide.size):
            return _impossible(slide)
        return _jpeg(lambda: self._pyramids.tile(slide, level, column, row))

    def _slide(self, request: Request) -> ListedSlide | None:
        return self._library.slides.get(request.path_params["slide"])


def _static() -> Callable[..., Callable[[Request], Response]]:
    """Read the static files; return a function that makes an endpoint for one file or for any."""
    folder = files("parfocal.explain") / "static"
    pages: dict[str, tuple[bytes, str]] = {}
    for directory, prefix in ((folder, ""), (folder / "openseadragon", "openseadragon/")):
        for file in directory.iterdir() if directory.is_dir() else ():
            kind = MEDIA_TYPES.get("." + file.name.rpartition(".")[2])
            if kind and file.is_file():
                pages[prefix + file.name] = (file.read_bytes(), kind)

    def page(name: str | None = None) -> Callable[[Request], Response]:
        def view(request: Request) -> Response:
            file = pages.get(name or request.path_params["name"])
            if file is None:
                return _missing("no such file")
            return Response(file[0], media_type=file[1], headers=NO_CACHE)

        return view

    return page


def _facts(slide: ListedSlide) -> dict[str, object]:
    return {
        "key": slide.key,
        "id": slide.id,
        "size": slide.size,
        "label": slide.truth.label,
        "problem": slide.problem,
        "predictions": [_summary(prediction) for prediction in slide.predictions],
    }


def _summary(prediction: PredictionSummary) -> dict[str, object]:
    return {
        "key": prediction.key,
        "model": prediction.model,
        "label": prediction.label,
        "probabilities": dict(prediction.probabilities),
        "patches": prediction.patches,
        "share_patches": prediction.share_patches,
        "seconds": prediction.seconds,
        "bill": prediction.bill,
        "patient": prediction.patient,
        "share": prediction.share,
    }


def _jpeg(picture: Callable[[], bytes | None]) -> Response:
    with catch_failure("a picture of the viewer") as attempt:
        content = picture()
    if attempt.reason is not None:
        return _missing(attempt.reason)
    if content is None:
        return _missing("no such picture")
    return Response(content, media_type="image/jpeg", headers=LONG_CACHE)


def _missing(reason: str) -> Response:
    return AsciiJson({"error": reason}, status_code=404, headers={"Cache-Control": "no-store"})


def _impossible(slide: ListedSlide) -> Response:
    width, height = slide.size
    reason = f"{slide.id}: {width} x {height} px is not the size of a slide; predict it again."
    return AsciiJson({"error": reason}, status_code=400, headers={"Cache-Control": "no-store"})


def _number(text: str) -> int | None:
    valid = text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
    return int(text) if valid else None
