"""The viewer's server: read-only, for this machine, and for what is listed and nothing else.

Names in a URL are looked up, never joined into a path. There is no verb but GET and HEAD.
"""

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from ipaddress import ip_address

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parfocal.dataset.cohort import CohortError
from parfocal.dataset.outlines import read_outlines
from parfocal.explain.library import Library, ListedSlide, PredictionSummary
from parfocal.explain.read_record import RecordError, read_prediction
from parfocal.explain.viewer.pyramid import TILE_PX, Pyramids, levels
from parfocal.slide.errors import SlideError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
OPENSEADRAGON_STYLE = "sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE="  # its one <style>
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
PLAIN = {"Cache-Control": "no-cache"}
# A key holds the file's fingerprint, so the pixels behind it do not change.
LASTING = {"Cache-Control": "private, max-age=86400"}
MOST_DIGITS = 9  # of a tile's number


class ViewError(Exception):
    """A viewer that cannot be served; the message says why, and what to do."""


def build_app(library: Library, *, any_host: bool = False) -> Starlette:
    """Give the application that serves a library.

    Args:
        library: what may be asked for.
        any_host: answer under whatever name; else under those of this machine alone, so that no
            page from elsewhere can read slides by pointing its own name here.
    """
    views = _Views(library, Pyramids())
    page = _static()
    routes = [
        Route("/", page("list.html")),
        Route("/slides/{slide}", views.known(page("slide.html"))),
        Route("/api/slides", views.slides),
        Route("/api/slides/{slide}", views.slide),
        Route("/api/slides/{slide}/predictions/{prediction}", views.prediction),
        Route("/thumbnails/{slide}", views.thumbnail),
        Route("/tiles/{slide}/{level}/{column}/{row}", views.tile),
        Route("/static/{name:path}", page()),
    ]
    hosts = ["*"] if any_host else [*LOOPBACK, "[::1]"]
    middleware = [Middleware(_Guarded), Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]
    app = Starlette(routes=routes, middleware=middleware)
    app.router.redirect_slashes = False  # a redirect could be made to lead elsewhere
    return app


def listen(host: str, port: int) -> socket.socket:
    """Take a port; 0 for any that is free.

    Raises:
        ViewError: the port is in use, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ViewError(
                f"port {port} of {host} is in use, perhaps by another `parfocal view`; give "
                "another with --port (0 takes any that is free)."
            ) from None
        raise ViewError(
            f"{host}, port {port}: cannot be listened on ({error.strerror}); give an address of "
            "this machine and a port you may use."
        ) from None


def address_of(listening: socket.socket) -> str:
    """Give what to type into a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # every address: ours too
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def serve(library: Library, listening: socket.socket) -> None:
    """Serve a library until Ctrl-C."""
    app = build_app(library, any_host=not is_loopback(listening.getsockname()[0]))
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    with suppress(KeyboardInterrupt):  # the way to end it
        uvicorn.Server(config).run(sockets=[listening])


class _Guarded:
    """Puts the headers on every answer, also on refusals."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), told.encode()) for name, told in HEADERS.items()]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, guarded)


class _Views:
    """What the page asks for; each answers in a thread of its own."""

    def __init__(self, library: Library, pyramids: Pyramids) -> None:
        self._library, self._pyramids = library, pyramids

    def known(self, page: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Give a page of a slide, which itself says so where there is none, as 404 then."""

        def view(request: Request) -> Response:
            answer = page(request)
            answer.status_code = 404 if self._asked(request) is None else answer.status_code
            return answer

        return view

    def slides(self, request: Request) -> Response:
        """List slides, with their predictions but no regions."""
        slides = [_facts(slide) for slide in self._library.slides.values()]
        return JSONResponse({"slides": slides, "problems": self._library.problems}, headers=PLAIN)

    def slide(self, request: Request) -> Response:
        """Tell of one slide: also how it is tiled, and its lesions."""
        slide = self._asked(request)
        if slide is None:
            return _missing("no such slide")
        tiles = {"size": TILE_PX, "levels": levels(slide.size)}
        facts = _facts(slide) | {"mpp": slide.mpp, "tiles": tiles, "outlines": []}
        if slide.truth.outlines is not None:
            try:
                polygons = read_outlines(slide.truth.outlines).polygons
            except CohortError as error:
                facts["outlines_problem"] = str(error)
            else:
                rings = [[polygon.outer, *polygon.holes] for polygon in polygons]
                facts["outlines"] = [[ring.tolist() for ring in each] for each in rings]
        return JSONResponse(facts, headers=PLAIN)

    def prediction(self, request: Request) -> Response:
        """Give a prediction as it was saved, also what only its method tells."""
        slide, key = self._asked(request), request.path_params["prediction"]
        listed = [each for each in slide.predictions if each.key == key] if slide else []
        if not listed:
            return _missing("no such prediction")
        try:
            read_prediction(listed[0].path)
            content = listed[0].path.read_bytes()
        except (RecordError, OSError) as error:
            return _missing(str(error))
        return Response(content, media_type="application/json", headers=PLAIN)

    def thumbnail(self, request: Request) -> Response:
        """Give a slide, small."""
        slide = self._asked(request)
        return _jpeg(lambda: None if slide is None else self._pyramids.thumbnail(slide))

    def tile(self, request: Request) -> Response:
        """Give a tile of a slide."""
        slide = self._asked(request)
        place = [_number(request.path_params[name]) for name in ("level", "column", "row")]
        level, column, row = place
        if slide is None or level is None or column is None or row is None:
            return _missing("no such tile")
        return _jpeg(lambda: self._pyramids.tile(slide, level, column, row))

    def _asked(self, request: Request) -> ListedSlide | None:
        return self._library.slides.get(request.path_params["slide"])


def _static() -> Callable[..., Callable[[Request], Response]]:
    """Read the page's files; give what makes a view of one of them, or of the one asked for."""
    folder = files("parfocal.explain") / "static"
    pages: dict[str, tuple[bytes, str]] = {}
    for place, prefix in ((folder, ""), (folder / "openseadragon", "openseadragon/")):
        for file in place.iterdir() if place.is_dir() else ():
            kind = KINDS.get("." + file.name.rpartition(".")[2])
            if kind and file.is_file():
                pages[prefix + file.name] = (file.read_bytes(), kind)

    def page(name: str | None = None) -> Callable[[Request], Response]:
        def view(request: Request) -> Response:
            found = pages.get(name or request.path_params["name"])
            if found is None:
                return _missing("no such file")
            return Response(found[0], media_type=found[1], headers=PLAIN)

        return view

    return page


def _facts(slide: ListedSlide) -> dict[str, object]:
    return {
        "key": slide.key,
        "id": slide.id,
        "size": slide.size,
        "label": slide.truth.label,
        "problem": slide.problem,
        "predictions": [_told(prediction) for prediction in slide.predictions],
    }


def _told(listed: PredictionSummary) -> dict[str, object]:
    return {
        "key": listed.key,
        "model": listed.model,
        "label": listed.label,
        "probabilities": dict(listed.probabilities),
        "patches": listed.patches,
        "share_patches": listed.share_patches,
        "seconds": listed.seconds,
        "bill": listed.bill,
    }


def _jpeg(picture: Callable[[], bytes | None]) -> Response:
    try:
        content = picture()
    except SlideError as error:
        return _missing(str(error))
    if content is None:
        return _missing("no such picture")
    return Response(content, media_type="image/jpeg", headers=LASTING)


def _missing(reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=404, headers={"Cache-Control": "no-store"})


def _number(text: str) -> int | None:
    plain = text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS
    return int(text) if plain else None
