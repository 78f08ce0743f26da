"""Read a DICOM series from a DICOMweb server: its metadata, and single frames (WADO-RS).

Source: DICOM PS3.18, sections 8.7 (multipart) and 10.4 (retrieve transaction).
"""

import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from urllib3.response import BaseHTTPResponse

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.sources.daemon_pool import DaemonPool
from parfocal.slide.sources.errors import CanceledError, RemoteError, TransientError
from parfocal.slide.sources.http_client import HttpClient, RefusedError
from parfocal.slide.sources.page_fetcher import (
    FIRST_WAIT_S,
    MAX_WAIT_S,
    PARALLEL_REQUESTS,
    TRIES,
    settle,
)
from parfocal.slide.sources.source import Range
from parfocal.slide.sources.url import SlideUrl

METADATA_ACCEPT = "application/dicom+json"
MAX_METADATA_BYTES = 2**28
# A server sends a frame as it is stored, if that is JPEG; else in whatever way it is stored.
FRAME_ACCEPT = (
    'multipart/related; type="image/jpeg"; transfer-syntax=1.2.840.10008.1.2.4.50, '
    'multipart/related; type="application/octet-stream"; transfer-syntax=*'
)
MAX_FRAME_BYTES = 2**26
FRAMES_AT_ONCE = 8  # of one request
KEPT_FRAMES = 512  # fetched ahead; a frame of 512 px has some 50 kB
T = TypeVar("T")
BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


class DicomWebSeries:
    """A series on a DICOMweb server. Threads may share it, but not processes.

    Args:
        url: address of the series, .../studies/UID/series/UID.
        cost_meter: counts requests and bytes.

    Raises:
        RemoteError: the address is one that no slide is read from.
    """

    def __init__(self, url: SlideUrl, cost_meter: CostMeter) -> None:
        self._url, self._cost_meter = url, cost_meter
        self._client = HttpClient(url, cost_meter)
        self._closed = threading.Event()

    def metadata(self) -> tuple[list[dict[str, Any]], str]:
        """Return the attributes of each instance in the DICOM JSON model, and their SHA-256.

        Raises:
            RemoteError: the server does not send them.
        """
        content = self.retry(lambda: self._get("metadata", METADATA_ACCEPT, MAX_METADATA_BYTES)[1])
        try:
            found = json.loads(content)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise self._client.lie("the metadata of the series is no DICOM JSON")
        return found, hashlib.sha256(content).hexdigest()

    def frames(self, instance_uid: str, numbers: Sequence[int]) -> list[bytes]:
        """Return frames of an instance, as they are stored.

        Args:
            instance_uid: UID of the instance.
            numbers: numbers of the frames, counted from 0.

        Raises:
            TransientError: the request may succeed when it is repeated.
            RemoteError: it will not.
        """
        listed = ",".join(str(number + 1) for number in numbers)
        most = MAX_FRAME_BYTES * len(numbers)
        path = f"instances/{instance_uid}/frames/{listed}"
        content_type, content = self._get(path, FRAME_ACCEPT, most)
        try:
            parts = split_parts(content_type, content)
        except ValueError as error:
            raise self._client.lie(f"its answer {error}") from None
        if len(parts) != len(numbers):
            raise self._client.lie(
                f"{len(numbers)} frames were requested, and it sent {len(parts)}"
            )
        return parts

    def retry(self, request: Callable[[], T]) -> T:
        """Make a request, and repeat it if it fails, until there are too many failures."""
        for failures in range(1, TRIES + 1):
            try:
                return request()
            except TransientError as error:
                if failures == TRIES:
                    raise RemoteError(
                        self._url,
                        f"{self._url.host} failed {TRIES} times in a row ({error}). Check the "
                        "network and the server, then run the same command again.",
                    ) from None
                wait_s = min(MAX_WAIT_S, max(error.wait_s, FIRST_WAIT_S * 2 ** (failures - 1)))
                if self._closed.wait(wait_s):
                    raise CanceledError(self._url) from None
        raise AssertionError("unreachable")

    def cancel(self) -> None:
        """Break the connections for good, so that waiting threads get an error at once."""
        self._closed.set()
        self._client.cancel()

    def _get(self, path: str, accept: str, most: int) -> tuple[str, bytes]:
        """Return content type and body of a resource below the series."""
        parts = self._url.parts
        target = parts._replace(path=f"{parts.path.rstrip('/')}/{path}")
        try:
            response, _ = self._client.request(target, {"Accept": accept}, accepted=(200, 206))
        except RefusedError as error:
            if error.status != 406:
                raise
            raise RemoteError(
                self._url,
                f"{self._url.host} sends no frames as they are stored (status 406). Retrieve all "
                "files of the series to a folder, and give the folder.",
            ) from None
        content = self._client.body(response, most)
        self._cost_meter.add_bytes(len(content))
        return content_type_of(response), content


def content_type_of(response: BaseHTTPResponse) -> str:
    """Return the header Content-Type of a response; empty if it has none."""
    return str(response.headers.get("Content-Type", ""))


def split_parts(content_type: str, content: bytes) -> list[bytes]:
    """Return the parts of a multipart body, without their headers.

    Args:
        content_type: header Content-Type of the response.
        content: the body.

    Raises:
        ValueError: the body is not multipart, or does not end.
    """
    found = BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/") or found is None:
        raise ValueError("is not multipart")
    mark = b"--" + found[1].encode()
    position = content.find(mark)
    parts: list[bytes] = []
    while position >= 0:
        start = position + len(mark)
        if content[start : start + 2] == b"--":
            return parts
        head_end = content.find(b"\r\n\r\n", start)
        position = content.find(b"\r\n" + mark, head_end)
        if head_end < 0 or position < 0:
            break
        parts.append(content[head_end + 4 : position])
        position += 2
    raise ValueError("ends early")


class FrameSource:
    """The frames of an instance as a `ByteSource` whose positions are numbers of frames.

    The range (5, 1) is the whole of frame 5, counted from 0, whatever its length in bytes.

    Args:
        url: address of the series.
        instance_uid: UID of the instance.
        frames: number of its frames.
        cost_meter: counts requests and bytes.
    """

    is_remote = reads_ahead = True

    def __init__(
        self, url: SlideUrl, instance_uid: str, frames: int, cost_meter: CostMeter
    ) -> None:
        self._open = partial(FrameFetcher, url, instance_uid, cost_meter)
        self.size, self.identity = frames, instance_uid
        self._fetchers: dict[int, FrameFetcher] = {}

    def read(self, offset: int, length: int) -> bytes:
        """Return the frames from a position, one after the other.

        Raises:
            RemoteError: they do not come.
        """
        frames = self._fetcher().want(range(offset, min(offset + length, self.size)))
        return b"".join(frame.result() for frame in frames)

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the frames of several ranges, which are fetched together."""
        contents: list[bytes] = []
        while len(contents) < len(ranges):
            rest = ranges[len(contents) :]
            contents += [self.read(*part) for part in rest[: self.read_ahead(rest)]]
        return contents

    def read_ahead(self, ranges: Sequence[Range]) -> int:
        """Start fetching ranges that will be read soon; see `ByteSource`."""
        numbers: list[int] = []
        count = 0
        for offset, length in ranges:
            if count and len(numbers) + length > KEPT_FRAMES // 2:
                break
            numbers += range(offset, offset + length)
            count += 1
        self._fetcher().want(numbers)
        return count

    def cancel(self) -> None:
        """Let reads that wait in other threads fail at once; the source is then closed."""
        fetcher = self._fetchers.get(os.getpid())
        if fetcher is not None:
            fetcher.close()

    def close(self) -> None:
        """Break the connections of this process, and forget its frames."""
        fetcher = self._fetchers.pop(os.getpid(), None)
        if fetcher is not None:
            fetcher.close()

    def _fetcher(self) -> "FrameFetcher":
        """Return the fetcher of this process; threads and connections do not survive a fork."""
        process = os.getpid()
        if process not in self._fetchers:
            self._fetchers.setdefault(process, self._open())
        return self._fetchers[process]


class FrameFetcher:
    """The frames of an instance in one process, and the threads that fetch them.

    Args:
        url: address of the series.
        instance_uid: UID of the instance.
        cost_meter: counts requests and bytes.
    """

    def __init__(self, url: SlideUrl, instance_uid: str, cost_meter: CostMeter) -> None:
        self._url, self._instance_uid = url, instance_uid
        self._series = DicomWebSeries(url, cost_meter)
        self._frames: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._pool = DaemonPool(PARALLEL_REQUESTS)

    def want(self, numbers: Sequence[int]) -> list[Future[bytes]]:
        """Return frames that are fetched or being fetched, and start fetching the others."""
        with self._lock:
            if self._closed.is_set():
                raise CanceledError(self._url)
            missing = sorted({number for number in numbers if not self._has(number)})
            self._frames.update((number, Future()) for number in missing)
            futures = [self._frames[number] for number in numbers]
            for number in numbers:
                self._frames.move_to_end(number)
            at_once = min(FRAMES_AT_ONCE, -(-len(missing) // PARALLEL_REQUESTS))
            for start in range(0, len(missing), max(1, at_once)):
                batch = missing[start : start + at_once]
                waiting = [self._frames[number] for number in batch]
                self._pool.submit(partial(self._fetch, batch, waiting))
            self._drop_oldest()
        return futures

    def close(self) -> None:
        """Break the connections, and release those who wait for frames."""
        with self._lock:
            self._closed.set()
            waiting = [frame for frame in self._frames.values() if not frame.done()]
            self._frames.clear()
        self._pool.close()
        for frame in waiting:
            settle(frame, error=CanceledError(self._url))
        self._series.cancel()

    def _has(self, number: int) -> bool:
        frame = self._frames.get(number)
        return frame is not None and not (frame.done() and frame.exception() is not None)

    def _drop_oldest(self) -> None:
        for number in list(self._frames)[: max(0, len(self._frames) - KEPT_FRAMES)]:
            if self._frames[number].done():
                del self._frames[number]

    def _fetch(self, numbers: Sequence[int], waiting: Sequence[Future[bytes]]) -> None:
        try:
            found = self._series.retry(lambda: self._series.frames(self._instance_uid, numbers))
        except BaseException as error:  # the readers raise it
            shown = error if isinstance(error, SlideError | OSError) else self._hidden(error)
            for frame in waiting:
                settle(frame, error=shown)
        else:
            for frame, content in zip(waiting, found, strict=True):
                settle(frame, content=content)

    def _hidden(self, error: BaseException) -> RemoteError:
        """Return an error without the text of other libraries, which may hold the whole URL."""
        kind = type(error).__name__
        return RemoteError(self._url, f"reading from {self._url.host} failed ({kind}).")
