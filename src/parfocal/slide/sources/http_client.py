"""HttpClient: requests to the host of a URL, with urllib3's connections.

Nothing is asked of any host but the named one and those that the user allows. TLS certificates are
always checked. A pool and its logger, which would write whole URLs, are not used.
"""

import binascii
import logging
import re
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from netrc import NetrcParseError, netrc
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NameResolutionError, SSLError
from urllib3.response import BaseHTTPResponse

from parfocal.cost import CostMeter
from parfocal.slide.sources.addresses import is_forbidden
from parfocal.slide.sources.errors import RemoteError, TransientError
from parfocal.slide.sources.url import WEB_SCHEMES, SlideUrl

CONNECT_S, SILENCE_S = 10.0, 30.0
LEAST_RATE = 10_000  # bytes per second, below which a request is given up
CHUNK_BYTES = 2**16
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
DEFAULT_PORTS = {"http": 80, "https": 443}
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
MAX_RETRY_AFTER_S = 30.0
BROKEN = (OSError, HTTPException, HTTPError)  # what a broken connection raises
REFUSAL_ADVICE = {
    401: "It requires credentials: put them in ~/.netrc, or use a signed URL.",
    403: "Check that your credentials or the signed URL are still valid.",
    404: "Check the address.",
    410: "Check the address.",
}


class QueryFilter(logging.Filter):
    """Removes queries, which may hold credentials, from what urllib3 logs of broken headers."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record, and return True."""
        record.msg, record.args = re.sub(r"\?[^\s)]*", "", record.getMessage()), ()
        return True


logging.getLogger("urllib3.connection").addFilter(QueryFilter())


@dataclass(frozen=True)
class Origin:
    """Where a connection leads.

    Args:
        scheme: http or https.
        host: name or IP address.
        port: port.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, parts: SplitResult) -> "Origin":
        """Return the origin of a URL."""
        scheme = parts.scheme.lower()
        port = parts.port or DEFAULT_PORTS.get(scheme, 0)
        return cls(scheme, (parts.hostname or "").lower(), port)

    @property
    def name(self) -> str:
        """Host and port; the host alone if the port is that of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"


class RefusedError(RemoteError):
    """A request that a server refused.

    Args:
        url: the slide.
        problem: what is wrong and what to do, as sentences.
        status: status of the response.
    """

    def __init__(self, url: SlideUrl, problem: str, status: int) -> None:
        super().__init__(url, problem)
        self.status = status


class HttpClient:
    """Sends GET requests to the host of a URL; each thread has a connection of its own.

    Args:
        url: a URL of the host, whose user and allowed redirects hold for all requests.
        cost_meter: counts the requests.

    Raises:
        RemoteError: the address is one that no slide is read from.
    """

    def __init__(self, url: SlideUrl, cost_meter: CostMeter) -> None:
        self._url, self._cost_meter = url, cost_meter
        self._home = Origin.of(url.parts)
        self._authorization = _authorization(url.parts)
        self._connections: dict[tuple[int, Origin], HTTPConnection] = {}
        self._context: ssl.SSLContext | None = None
        self._canceled = False
        self._refuse_forbidden(self._home.host)

    def request(
        self, target: SplitResult, headers: Mapping[str, str], *, accepted: Collection[int]
    ) -> tuple[BaseHTTPResponse, SplitResult]:
        """Send a request and follow redirects, as far as they are allowed.

        Args:
            target: the URL.
            headers: headers besides those of every request.
            accepted: statuses of responses to return.

        Returns:
            The response, whose body has not been read; and the URL where the redirects led.

        Raises:
            TransientError: the request may succeed when it is repeated.
            RemoteError: it will not.
        """
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(target, headers)
            location = response.headers.get("Location")
            if response.status in REDIRECTS and location:
                self.drop(response)
                target = self._check_redirect(target, location)
                continue
            if response.status in accepted:
                self._check_encoding(response)
                return response, target
            self.drop(response)
            raise self._refusal(response)
        raise RemoteError(
            self._url, f"{self._url.host} redirects more than {MAX_REDIRECTS} times. Check the URL."
        )

    def chunks(self, response: BaseHTTPResponse, length: int) -> Iterator[bytes]:
        """Yield the bytes of a response, and cut it off after those that were requested.

        Args:
            response: the response.
            length: its length in bytes.

        Raises:
            TransientError: they stop, or come too slowly.
            RemoteError: more bytes come.
        """
        left, deadline = length, time.monotonic() + SILENCE_S + length / LEAST_RATE
        try:
            while left:
                chunk = response.read1(min(CHUNK_BYTES, left))
                if not chunk:
                    raise TransientError(f"the connection ended {left} bytes early")
                left -= len(chunk)
                yield chunk
                if time.monotonic() > deadline:
                    raise TransientError(f"it sent less than {LEAST_RATE // 1000} kB per second")
            more = response.read1(1)
        except BROKEN as error:
            raise self._broken(error) from None
        finally:
            if left:
                self.drop(response)
        if more:
            self.drop(response)
            raise self.lie("it sent more than it announced")

    def body(self, response: BaseHTTPResponse, most: int) -> bytes:
        """Return the whole body of a response.

        Args:
            response: the response.
            most: largest length in bytes.

        Raises:
            TransientError: it stops, or comes too slowly.
            RemoteError: it is longer.
        """
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) <= most:
            return b"".join(self.chunks(response, int(length)))
        content, start = bytearray(), time.monotonic()
        try:
            while chunk := response.read1(CHUNK_BYTES):
                content += chunk
                if len(content) > most:
                    raise self.lie(f"it sent more than {most // 10**6} MB")
                if time.monotonic() > start + SILENCE_S + len(content) / LEAST_RATE:
                    raise TransientError(f"it sent less than {LEAST_RATE // 1000} kB per second")
        except BROKEN as error:
            raise self._broken(error) from None
        except (RemoteError, TransientError):
            self.drop(response)
            raise
        return bytes(content)

    def cancel(self) -> None:
        """Break the connections for good, so that waiting threads get an error at once."""
        self._canceled = True
        for connection in list(self._connections.values()):
            _shut_down(connection)
            self._forget(connection)

    def lie(self, found: str) -> RemoteError:
        """Return the error of a server that did not send what was requested.

        Args:
            found: what it did, as a clause.
        """
        return RemoteError(
            self._url, f"{self._url.host} did not send what was requested: {found}. Ask its owner."
        )

    def drop(self, response: BaseHTTPResponse) -> None:
        """Break the connection of a response that is not read to its end; it is this thread's."""
        response.close()
        for key, connection in list(self._connections.items()):
            if key[0] == threading.get_ident():
                self._forget(connection)

    def _check_encoding(self, response: BaseHTTPResponse) -> None:
        """Raise if the bytes of a response were compressed on the way."""
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ("", "identity"):
            self.drop(response)
            raise self.lie(f"it compresses the bytes ({encoding[:20]})")

    def _send(self, target: SplitResult, headers: Mapping[str, str]) -> BaseHTTPResponse:
        origin = Origin.of(target)
        path = (target.path or "/") + (f"?{target.query}" if target.query else "")
        own = {"Accept-Encoding": "identity", "User-Agent": "parfocal", **headers}
        if self._authorization and origin == self._home:
            own["Authorization"] = self._authorization
        self._cost_meter.add_bytes(0, requests=1)
        connection = self._connection(origin)
        try:
            connection.request(
                "GET", path, headers=own, preload_content=False, decode_content=False
            )
            return connection.getresponse()
        except BROKEN as error:
            self._forget(connection)
            raise self._broken(error) from None

    def _connection(self, origin: Origin) -> HTTPConnection:
        key = threading.get_ident(), origin
        connection = self._connections.get(key)
        if connection is not None and connection.is_connected:
            return connection
        if connection is not None:
            connection.close()
        connection = self._connections[key] = self._make_connection(origin)
        try:
            connection.connect()
        except BROKEN as error:
            self._forget(connection)
            raise self._broken(error) from None
        if self._canceled:  # while it was made, so that `cancel` may not have seen it
            self._forget(connection)
            raise TransientError("connection broken")
        connection.timeout = SILENCE_S
        if connection.sock is not None:
            self._refuse_forbidden(str(connection.sock.getpeername()[0]), connection)
        return connection

    def _make_connection(self, origin: Origin) -> HTTPConnection:
        if origin.scheme == "http":
            return HTTPConnection(origin.host, origin.port, timeout=CONNECT_S)
        if self._context is None:
            self._context = ssl.create_default_context()
        return HTTPSConnection(
            origin.host,
            origin.port,
            timeout=CONNECT_S,
            ssl_context=self._context,
            cert_reqs="CERT_REQUIRED",
        )

    def _check_redirect(self, source: SplitResult, location: str) -> SplitResult:
        """Return where a redirect leads; raise if that is not allowed."""
        target = urlsplit(urljoin(source.geturl(), location))
        scheme, host = target.scheme.lower(), (target.hostname or "").lower()
        if scheme not in WEB_SCHEMES or not host:
            raise RemoteError(
                self._url,
                f"{self._url.host} redirects to {scheme or 'nowhere'}:, which is refused.",
            )
        self._refuse_forbidden(host)
        before, after = Origin.of(source), Origin.of(target)
        if before.scheme == "https" and after.scheme == "http":
            raise RemoteError(
                self._url,
                f"{self._url.host} redirects from https to http, which is refused because anyone "
                "on the way could read or change it.",
            )
        allowed = [each.lower() for each in self._url.access.allow_hosts]
        if after != before and after.name not in allowed:
            raise RemoteError(
                self._url,
                f"{self._url.host} redirects to {scheme}://{after.name}, which you did not name. "
                f"Give --allow-redirect {after.name} if you trust it.",
            )
        return target

    def _refuse_forbidden(self, address: str, connection: HTTPConnection | None = None) -> None:
        if not is_forbidden(address):
            return
        if connection is not None:
            self._forget(connection)
        raise RemoteError(
            self._url,
            f"{address} belongs to this computer's own network or cloud, where no slide "
            "is. Check the URL.",
        )

    def _refusal(self, response: BaseHTTPResponse) -> Exception:
        reason = f"{self._url.host} answered {response.status}"
        if response.status in TRANSIENT:
            asked = response.headers.get("Retry-After", "")
            wait_s = float(asked) if asked.isdecimal() else 0.0
            return TransientError(f"status {response.status}", min(wait_s, MAX_RETRY_AFTER_S))
        advice = REFUSAL_ADVICE.get(
            response.status, "Check the address with the owner of the server."
        )
        return RefusedError(self._url, f"{reason}. {advice}", response.status)

    def _broken(self, error: Exception) -> Exception:
        if isinstance(error, SSLError | ssl.SSLError) and "CERTIFICATE" in str(error).upper():
            return RemoteError(
                self._url,
                f"the TLS certificate of {self._url.host} is not valid for it. Ask the owner; if "
                "your institution signs its own, name its file in the variable SSL_CERT_FILE.",
            )
        if isinstance(error, NameResolutionError):
            return RemoteError(
                self._url, f"there is no host named {self._url.host}. Check the URL."
            )
        text = str(error).lower()  # it may hold the URL, so it is not shown
        reasons = {"timed out": "no answer in time", "refused": "connection refused"}
        if isinstance(error, HTTPException):
            return TransientError("the answer was not HTTP")
        found = (reason for words, reason in reasons.items() if words in text)
        return TransientError(next(found, "connection broken"))

    def _forget(self, connection: HTTPConnection) -> None:
        connection.close()
        for key in [key for key, each in self._connections.items() if each is connection]:
            self._connections.pop(key, None)


def _authorization(parts: SplitResult) -> str:
    """Return the Authorization header for the user of a URL or of ~/.netrc; empty without one."""
    user, password = parts.username, parts.password
    if user is None:
        try:
            found = netrc().authenticators(parts.hostname or "")
        except (OSError, NetrcParseError):
            found = None
        if found is None:
            return ""
        user, password = found[0], found[2]
    else:
        user, password = unquote(user), unquote(password or "")
    pair = f"{user}:{password}".encode()
    return f"Basic {binascii.b2a_base64(pair, newline=False).decode()}"


def _shut_down(connection: HTTPConnection) -> None:
    """Wake a thread that waits for a connection's socket."""
    sock = connection.sock
    if sock is not None:
        try:
            sock.shutdown(2)
        except OSError:
            return
