"""HTTP connections to an encoder service: addresses, credentials, time limits and retries.

A redirect is never followed, and proxies are not used: pixels go to the given host and to no other.
Credentials come from the netrc file; they are in no log and in no file that parfocal writes.
"""

import http.client
import logging
import netrc
import os
import ssl
import threading
import time
import weakref
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from parfocal.encoders.weights import EncoderError
from parfocal.printable import printable

RETRIED = (429, 500, 502, 503, 504)
MAX_RETRY_AFTER_S = 60.0
MAX_REASON = 200  # characters of a service's own words in a message
BLOCK_BYTES = 2**16

REMEDY = (
    "Check the address, or start a service there with `parfocal serve-encoder NAME` "
    "(docs/encoder-service.md)"
)

logger = logging.getLogger(__name__)


class ServiceError(EncoderError):
    """A service that does not answer, or not as described; no other slide could be encoded."""


class PatchesError(Exception):
    """Patches that a service cannot encode; those of other slides may be encoded."""


class _TemporaryError(Exception):
    """A failure that may pass; the text says what was found.

    Args:
        message: what was found.
        wait_s: seconds that the service asks to wait; None if it does not say.
    """

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Patience:
    """How long to wait for a service.

    Args:
        attempts: number of times a request is sent before it fails.
        wait_s: seconds before the second attempt; each further wait is twice as long.
        timeout_s: seconds in which a request has to be answered completely.
        connect_s: seconds in which a connection has to be made.
    """

    attempts: int = 8
    wait_s: float = 0.5
    timeout_s: float = 120.0
    connect_s: float = 10.0


@dataclass(frozen=True)
class Address:
    """The address of a service.

    Args:
        text: the address as given.
        is_secure: whether it is https.
        host: host name or IP address.
        port: port number.
        path: path of the requests.
    """

    text: str
    is_secure: bool
    host: str
    port: int
    path: str


@dataclass(frozen=True)
class Answer:
    """A response with status 200.

    Args:
        body: the content.
        headers: header fields by lower-case name.
    """

    body: bytes
    headers: dict[str, str]


def is_address(name: str) -> bool:
    """Return whether the name of an encoder is the address of a service."""
    return name.lower().startswith(("http://", "https://"))


def parse_address(text: str) -> Address:
    """Parse and check the address of a service.

    Raises:
        ValueError: the address is not complete, or contains more than scheme, host, port and path.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"encoder address: {error}; give http://HOST:PORT/.") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"encoder at {parts.hostname}: the address contains a user name or a password, which "
            "would be stored with the results; put them into the netrc file instead."
        )
    if parts.query or parts.fragment:
        raise ValueError(
            f"encoder at {parts.hostname}: the address has a query or a fragment; give scheme, "
            "host, port and path only."
        )
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise ValueError(f"encoder {text!r}: not an address; give http://HOST:PORT/.")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"encoder {printable(text)!r}: an address has ASCII characters only.")
    is_secure = parts.scheme.lower() == "https"
    return Address(
        text, is_secure, parts.hostname, port or (443 if is_secure else 80), parts.path or "/"
    )


class ServiceConnections:
    """Sends requests to one service; safe to use from several threads.

    Connections are kept open between requests.

    Args:
        address: where the service is.
        patience: how long to wait for answers.
        sleep: waits for some seconds.
    """

    def __init__(
        self, address: Address, patience: Patience, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.address = address
        self._patience, self._sleep = patience, sleep
        self._credentials = _credentials(address)
        if self._credentials and not address.is_secure and not _is_loopback(address.host):
            logger.warning(
                "encoder at %s: the credentials are sent without encryption; use https",
                address.text,
            )
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._warned = threading.Event()
        weakref.finalize(self, _close_all, self._idle)

    def request(
        self, method: str, body: bytes | None = None, *, max_bytes: int, content_type: str = ""
    ) -> Answer:
        """Send a request, again where that may help, and return the answer.

        Args:
            method: "GET" or "POST".
            body: content of a POST.
            max_bytes: largest accepted size of the answer.
            content_type: type of the content.

        Raises:
            ServiceError: there is no answer of the expected size and with status 200.
            PatchesError: the service cannot encode these patches (status 422).
        """
        for attempt in range(self._patience.attempts):
            try:
                return self._attempt(method, body, max_bytes, content_type)
            except _TemporaryError as error:
                failure = error
            if attempt + 1 < self._patience.attempts:
                wait_s = failure.wait_s
                if wait_s is None:
                    wait_s = self._patience.wait_s * 2**attempt
                self._report(failure, wait_s)
                self._sleep(wait_s)
        raise self.error(f"{failure} ({self._patience.attempts} attempts). {REMEDY}")

    def error(self, message: str) -> ServiceError:
        """Return an error that names the service."""
        return ServiceError(f"encoder at {self.address.text}: {message}.")

    def _report(self, failure: _TemporaryError, wait_s: float) -> None:
        level = logging.DEBUG if self._warned.is_set() else logging.WARNING
        self._warned.set()
        logger.log(
            level, "encoder at %s: %s; trying again in %g s", self.address.text, failure, wait_s
        )

    def _attempt(
        self, method: str, body: bytes | None, max_bytes: int, content_type: str
    ) -> Answer:
        while True:
            connection, is_new = self._connection()
            try:
                answer = self._send(connection, method, body, max_bytes, content_type)
            except BaseException as error:
                connection.close()
                # The service may close a connection that it has not used for a while.
                stale = isinstance(error, ConnectionError | http.client.RemoteDisconnected)
                if stale and not is_new:
                    continue
                if isinstance(error, http.client.HTTPException | OSError):
                    raise _TemporaryError(_describe(error)) from error
                raise
            self._idle.append(connection)
            return answer

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection that no other thread uses, and whether it is a new one."""
        with suppress(IndexError):
            return self._idle.pop(), False
        address, timeout = self.address, self._patience.connect_s
        if not address.is_secure:
            return http.client.HTTPConnection(address.host, address.port, timeout=timeout), True
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(
            address.host, address.port, timeout=timeout, context=context
        ), True

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        body: bytes | None,
        max_bytes: int,
        content_type: str,
    ) -> Answer:
        """Send a request on a connection and read the whole answer."""
        deadline = time.monotonic() + self._patience.timeout_s
        headers = {"Accept-Encoding": "identity", "User-Agent": "parfocal", **self._credentials}
        if content_type:
            headers["Content-Type"] = content_type
        if connection.sock is None:
            connection.connect()
        socket = connection.sock
        socket.settimeout(self._patience.timeout_s)
        connection.request(method, self.address.path, body=body, headers=headers)
        response = connection.getresponse()
        limit = max_bytes if response.status == http.client.OK else BLOCK_BYTES
        if response.length is not None and response.length > limit:
            self._refuse(response, b"")
            raise self.error(f"it answers {response.length:,} bytes, expected at most {limit:,}")
        content = bytearray()
        while len(content) <= limit:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            socket.settimeout(left)
            block = response.read1(min(BLOCK_BYTES, limit + 1 - len(content)))
            if not block:
                break
            content += block
        if response.length and len(content) <= limit:  # announced bytes that did not come
            raise http.client.IncompleteRead(bytes(content), response.length)
        response.close()  # `read1` leaves it open, so the connection could not be used again
        self._refuse(response, bytes(content))
        if len(content) > limit:
            raise self.error(f"it answers more than {limit:,} bytes")
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(bytes(content), fields)

    def _refuse(self, response: http.client.HTTPResponse, content: bytes) -> None:
        """Raise the error that the status of a response stands for, unless it is 200."""
        status = response.status
        if status == http.client.OK:
            return
        words = _own_words(content)
        if status == http.client.UNPROCESSABLE_ENTITY:  # these patches, so this slide
            raise PatchesError(f"encoder at {self.address.text}: it cannot encode a batch{words}.")
        if status in RETRIED:
            wait = _retry_after(response.getheader("Retry-After"))
            raise _TemporaryError(f"it answers with status {status}{words}", wait)
        if 300 <= status < 400:
            raise self.error(
                f"it answers with status {status} and refers to another address, which is not "
                "followed. Give the final address"
            )
        if status in (401, 403):
            raise self.error(
                f"it refuses access (status {status}). Add its host with login and password to "
                "the netrc file, or only the password if it expects a token"
            )
        raise self.error(f"it answers with status {status}{words}. {REMEDY}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _credentials(address: Address) -> dict[str, str]:
    """Return the header with the credentials that the netrc file has for a host.

    A login with a password is sent as basic authentication, a password alone as a bearer token.

    Raises:
        EncoderError: the file cannot be read.
    """
    path = os.environ.get("NETRC")
    try:
        found = netrc.netrc(path).authenticators(address.host)
    except netrc.NetrcParseError as error:
        where = f"{path or Path('~/.netrc')}, line {error.lineno}"
        raise EncoderError(f"{where}: not a valid netrc file; correct it.") from None
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # no file, or no home
        if path is None or isinstance(error, FileNotFoundError):
            return {}
        raise EncoderError(f"{path}: cannot be read; check its permissions.") from None
    if found is None or not found[2]:
        return {}
    login, _, password = found
    if not login:
        return {"Authorization": f"Bearer {password}"}
    return {"Authorization": f"Basic {b64encode(f'{login}:{password}'.encode()).decode()}"}


def _retry_after(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header; a date is not understood."""
    if text is None or not text.strip().isdecimal():
        return None
    return min(float(text), MAX_RETRY_AFTER_S)


def _own_words(content: bytes) -> str:
    """Return the first line of an error page for a message, if it is short plain text."""
    line = content.decode("utf-8", errors="replace").strip().split("\n")[0].rstrip(".")
    return f" ({printable(line)})" if 0 < len(line) <= MAX_REASON and "<" not in line else ""


def _describe(error: Exception) -> str:
    """Describe why a request has no answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "its answer is shorter than announced"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be reached ({error.strerror})"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it closes the connection without an answer"
    return f"its answer is not HTTP ({type(error).__name__})"


def _close_all(connections: deque[http.client.HTTPConnection]) -> None:
    while connections:
        connections.pop().close()
