"""A DICOMweb server on loopback that serves the DICOM files of a folder, read with pydicom."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
from pydicom.encaps import get_frame

BOUNDARY = "a-boundary"
JPEG = "1.2.840.10008.1.2.4.50"


@dataclass
class DicomWebServer:
    """A server, and what it was asked for.

    Args:
        address: URL of the series.
        fault: returns the fault of a request, by its number from 0: "" for none, a status,
            "short" to leave out the last frame, "drop" to break the connection, "png" to send
            other frames, "single" to send them without parts, "cut" to end within a part.
        latency_s: seconds before each answer.
        changed: attributes of the metadata that differ from those of the files.
        is_chunked: whether answers have no Content-Length.
    """

    address: str = ""
    fault: Callable[[int], str] = lambda number: ""
    latency_s: float = 0.0
    changed: dict[str, Any] = field(default_factory=dict)
    is_chunked: bool = False
    authorization: str = ""
    paths: list[str] = field(default_factory=list)
    accepts: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serve_dicomweb(folder: Path, **options: Any) -> Iterator[DicomWebServer]:
    """Serve the series in a folder until the end of the block."""
    served = DicomWebServer(**options)
    files = {}
    for path in sorted(folder.iterdir()):
        data = pydicom.dcmread(path)
        files[str(data.SOPInstanceUID)] = data
    first = next(iter(files.values()))
    root = f"/dicom-web/studies/{first.StudyInstanceUID}/series/{first.SeriesInstanceUID}"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

        def do_GET(self) -> None:
            with served.lock:
                number = len(served.paths)
                served.paths.append(self.path)
                served.accepts.append(self.headers.get("Accept", ""))
            time.sleep(served.latency_s)
            fault = served.fault(number)
            given = self.headers.get("Authorization", "")
            if fault == "drop":
                self.close_connection = True
            elif served.authorization not in ("", given):
                self.answer(401, "text/plain", b"")
            elif fault.isdecimal():
                self.answer(int(fault), "text/plain", b"")
            elif self.path == f"{root}/metadata":
                self.answer(200, "application/dicom+json", metadata(files, served.changed))
            else:
                self.send_frames(fault)

        def send_frames(self, fault: str) -> None:
            _, _, rest = self.path.partition(f"{root}/instances/")
            uid, _, listed = rest.partition("/frames/")
            data = files.get(uid)
            if data is None or not listed:
                self.answer(404, "text/plain", b"")
                return
            numbers = [int(each) - 1 for each in listed.split(",")]
            frames = [
                get_frame(data.PixelData, each, number_of_frames=int(data.NumberOfFrames))
                for each in numbers
            ]
            if fault == "short":
                frames = frames[:-1]
            if fault == "png":
                frames = [b"\x89PNG" + frame for frame in frames]
            if fault == "single":
                self.answer(200, "image/jpeg", frames[0])
                return
            kind = f'Content-Type: image/jpeg; transfer-syntax="{JPEG}"\r\n\r\n'.encode()
            mark = f"--{BOUNDARY}".encode()
            body = b"".join(mark + b"\r\n" + kind + frame + b"\r\n" for frame in frames)
            body += mark + b"--\r\n"
            if fault == "cut":
                body = body[: len(body) // 2]
            self.answer(200, f'multipart/related; type="image/jpeg"; boundary={BOUNDARY}', body)

        def answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if served.is_chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for part in (body, b""):
                    if part or part is not body:
                        self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                return
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    served.address = f"http://127.0.0.1:{server.server_address[1]}{root}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def metadata(files: dict[str, pydicom.Dataset], changed: dict[str, Any]) -> bytes:
    """Return the metadata of all instances as DICOM JSON."""
    listed = []
    for data in files.values():
        attributes = {tag: value for tag, value in data.to_json_dict().items() if tag != "7FE00010"}
        attributes |= {tag: value for tag, value in changed.items() if value is not None}
        listed.append(
            {tag: value for tag, value in attributes.items() if changed.get(tag, 0) is not None}
        )
    return json.dumps(listed).encode()
