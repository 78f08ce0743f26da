"""Read parts of a file from an http or https server."""

import re
from collections.abc import Mapping

from urllib3.response import BaseHTTPResponse

from parfocal.cost import CostMeter
from parfocal.slide.sources.errors import NoRangesError, RemoteError, TransientError
from parfocal.slide.sources.http_client import HttpClient, RefusedError
from parfocal.slide.sources.transport import Reply
from parfocal.slide.sources.url import SlideUrl

CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
EMPTY_RANGE = re.compile(r"bytes \*/0")
EXPIRED = (401, 403, 404, 410)  # how a server refuses a redirect that is no longer valid


class HttpTransport:
    """Requests for one file; see `Transport`.

    Args:
        url: the file.
        cost_meter: counts the requests.

    Raises:
        RemoteError: the address is one that no slide is read from.
    """

    def __init__(self, url: SlideUrl, cost_meter: CostMeter) -> None:
        self._url, self._client = url, HttpClient(url, cost_meter)
        self._target = url.parts  # where the last redirect led

    def fetch(self, offset: int, length: int) -> Reply:
        """Ask for bytes from a position; see `Transport`."""
        response = self._request({"Range": f"bytes={offset}-{offset + length - 1}"})
        if response.status == 200:
            self._client.drop(response)
            raise NoRangesError(self._url)
        if response.status == 416:
            content_range = response.headers.get("Content-Range", "")
            self._client.drop(response)
            raise RemoteError(self._url, self._describe_416(content_range))
        found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None:
            self._client.drop(response)
            raise self._client.lie("it does not say which bytes it sends")
        first, last, size = map(int, found.groups())
        expected = min(length, size - offset)
        if first != offset or last - first + 1 != expected:
            self._client.drop(response)
            raise self._client.lie(
                f"{expected} bytes were requested, it announced {last - first + 1}"
            )
        return Reply(size, _identity(response), self._client.chunks(response, expected))

    def fetch_whole(self) -> Reply:
        """Ask for the whole file; see `Transport`."""
        response = self._request({})
        length = response.headers.get("Content-Length", "")
        if response.status != 200 or not length.isdecimal():
            self._client.drop(response)
            raise self._client.lie("it does not say how large the file is")
        return Reply(int(length), _identity(response), self._client.chunks(response, int(length)))

    def cancel(self) -> None:
        """Break the connections for good, so that waiting threads get an error at once."""
        self._client.cancel()

    def _request(self, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Send a request, first to where the last one was redirected."""
        try:
            response, self._target = self._client.request(
                self._target, headers, accepted=(200, 206, 416)
            )
        except RefusedError as error:
            if error.status not in EXPIRED or self._target == self._url.parts:
                raise
            self._target = self._url.parts  # where it led may be valid for a while only
            raise TransientError(f"status {error.status} after a redirect") from None
        return response

    def _describe_416(self, content_range: str) -> str:
        if EMPTY_RANGE.fullmatch(content_range):
            return "the file is empty (0 bytes). Copy it again from its source."
        return f"the file on {self._url.host} became shorter while it was read. Read it again."


def _identity(response: BaseHTTPResponse) -> str:
    """Return what a server says about the version of a file."""
    etag = response.headers.get("ETag", "").removeprefix("W/")
    return etag or response.headers.get("Last-Modified", "")
