"""A real web server on loopback with ranges, and with every fault that servers have."""

import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHUNK = 2**16
BURST_S = 0.05  # a line that was idle for so long catches up, as its sleeps are inexact
EXTRA = 100_000  # bytes that a server sends too many


@dataclass
class Behavior:
    """What a server does.

    Args:
        latency_s: seconds before each answer.
        bytes_per_s: rate of all answers together; 0 for no limit.
        fault: returns the name of the fault of a request, by its number from 0; "" for none.
        redirect: Location that every request is sent to; "" for none.
        authorization: value of the header that is required; "" for none.
        etag: the ETag by the number of the request; None for no ETag.
        modified: Last-Modified by the number of the request; None to send none.
    """

    latency_s: float = 0.0
    bytes_per_s: float = 0.0
    fault: Callable[[int], str] = lambda number: ""
    redirect: str = ""
    authorization: str = ""
    etag: Callable[[int], str] | None = lambda number: '"first"'
    modified: Callable[[int], str] | None = None


@dataclass
class Served:
    """What a server was asked for."""

    address: str
    behavior: Behavior
    requests: list[str] = field(default_factory=list)  # the values of Range
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    bytes_sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    free_at: float = 0.0  # when the line is free again
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients break connections on purpose."""


@contextmanager
def serve(
    folder: Path, behavior: Behavior | None = None, *, certificate: tuple[Path, Path] | None = None
) -> Iterator[Served]:
    """Serve the files of a folder until the end of the block."""
    served = Served("", behavior or Behavior())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = 2**16

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

        def do_GET(self) -> None:
            answer(self, served, folder)

    server = QuietServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    served.address = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.release.set()
        server.shutdown()
        server.server_close()


def answer(handler: BaseHTTPRequestHandler, served: Served, folder: Path) -> None:
    """Answer one request, with the fault that is due."""
    behavior = served.behavior
    with served.lock:
        number = len(served.requests)
        served.requests.append(handler.headers.get("Range", ""))
        served.paths.append(handler.path)
        served.headers.append(dict(handler.headers.items()))
    time.sleep(behavior.latency_s)
    fault = behavior.fault(number)
    served.faults[fault] += 1
    path = folder / handler.path.partition("?")[0].lstrip("/")
    if behavior.redirect:
        refuse(handler, 302, {"Location": behavior.redirect})
    elif behavior.authorization not in ("", handler.headers.get("Authorization")):
        refuse(handler, 401)
    elif fault.isdecimal():
        refuse(handler, int(fault))
    elif fault in ("drop", "garbage"):
        if fault == "garbage":
            handler.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
        handler.close_connection = True
    elif not path.is_file():
        refuse(handler, 404)
    else:
        send(handler, served, path, number, fault)


def refuse(
    handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def send(
    handler: BaseHTTPRequestHandler, served: Served, path: Path, number: int, fault: str
) -> None:
    size = path.stat().st_size
    wanted = "" if fault == "whole" else handler.headers.get("Range", "")
    first, last = 0, size - 1
    if wanted:
        first, last = (int(each) for each in wanted.removeprefix("bytes=").split("-"))
        last = min(last, size - 1)
    if first >= size:
        refuse(handler, 416, {"Content-Range": f"bytes */{size}"})
        return
    first, last = first + (fault == "shifted"), last + (fault == "shifted")
    with path.open("rb") as file:
        file.seek(first)
        body = file.read(last - first + 1)
    announced = len(body) + EXTRA * (fault == "longer announced")
    if fault in ("longer", "longer announced", "endless"):
        body += b"x" * EXTRA
    if fault == "short":
        body = body[: len(body) // 2]
    handler.send_response(206 if wanted else 200)
    if wanted:
        end = first + announced - 1
        handler.send_header("Content-Range", f"bytes {first}-{end}/{size}")
    if fault == "gzip":
        handler.send_header("Content-Encoding", "gzip")
    if served.behavior.etag is not None:
        handler.send_header("ETag", served.behavior.etag(number))
    if served.behavior.modified is not None:
        handler.send_header("Last-Modified", served.behavior.modified(number))
    if fault == "endless":
        handler.send_header("Connection", "close")
    else:
        handler.send_header("Content-Length", str(announced))
    handler.end_headers()
    send_body(handler, served, body, stall=fault == "stall")
    if fault in ("short", "longer", "endless"):
        handler.close_connection = True


def send_body(handler: BaseHTTPRequestHandler, served: Served, body: bytes, *, stall: bool) -> None:
    for start in range(0, len(body), CHUNK):
        part = body[start : start + CHUNK]
        wait_for_line(served, len(part))
        handler.wfile.write(part)
        with served.lock:
            served.bytes_sent += len(part)
        if stall:
            handler.wfile.flush()
            served.stalled.set()
            served.release.wait(60)
    handler.wfile.flush()


def wait_for_line(served: Served, length: int) -> None:
    """Wait as long as bytes take on the line that all answers share."""
    if not served.behavior.bytes_per_s:
        return
    with served.lock:
        start = max(served.free_at, time.monotonic() - BURST_S)
        served.free_at = start + length / served.behavior.bytes_per_s
    time.sleep(max(0.0, served.free_at - time.monotonic()))
