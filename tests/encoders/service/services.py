"""Services on loopback: the reference server, and one whose answers a test defines."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import uvicorn

from parfocal.encoders.loading import load_encoder
from parfocal.encoders.service.connection import Patience
from parfocal.encoders.service.protocol import Description, Limits
from parfocal.encoders.service.server import build_service
from parfocal.explain.viewer import address_of, listen

QUICK = Patience(attempts=3, wait_s=0.0, timeout_s=5.0, connect_s=5.0)


@dataclass
class Request:
    """A request that a scripted service has received."""

    method: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ScriptedService:
    """A service whose answers a test defines.

    `answer` receives a request and returns status, headers and body; what it raises cuts the
    connection.
    """

    address: str
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    answer: Callable[[Request], tuple[int, dict[str, str], bytes]] = lambda request: (404, {}, b"")


@contextmanager
def scripted() -> Iterator[ScriptedService]:
    """Serve on loopback for the duration of a `with` block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            service.connections += 1

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, headers, body)
            service.requests.append(request)
            try:
                status, fields, content = service.answer(request)
            except Exception:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **fields}.items():
                if value:
                    self.send_header(name, value)
            try:
                self.end_headers()
                self.wfile.write(content)
            except OSError:  # the client has gone
                self.close_connection = True
            if fields.get("Connection") == "close":
                self.close_connection = True

        do_POST = do_GET  # noqa: N815 (the name that http.server calls)

        def log_message(self, *arguments: object) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Ignore clients that have gone."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service = ScriptedService(f"http://127.0.0.1:{server.server_address[1]}/")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def served(name: str = "tiny") -> Iterator[str]:
    """Serve an encoder with the reference server; yield its address."""
    config = uvicorn.Config(
        build_service(load_encoder(name)), ws="none", lifespan="off", log_level="warning"
    )
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield address_of(listening)
        finally:
            server.should_exit = True
            thread.join()


def description(**changes: object) -> Description:
    """Describe the encoder `tiny`."""
    given = {"macs_per_patch": 7, "limits": Limits(2, 3), **changes}
    return Description(load_encoder("tiny").spec, **given)  # type: ignore[arg-type]
