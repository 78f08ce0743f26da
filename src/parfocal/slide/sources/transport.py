"""Transport: one request for a part of a remote file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Reply:
    """The answer to a request.

    Args:
        size: number of bytes of the whole file.
        identity: text that changes if the file is replaced, such as its ETag; empty if unknown.
        chunks: the requested bytes, as they come. Iterating raises TransientError if they stop.
    """

    size: int
    identity: str
    chunks: Iterator[bytes]


@runtime_checkable
class Transport(Protocol):
    """Fetches parts of one file; threads may share it, but not processes."""

    def fetch(self, offset: int, length: int) -> Reply:
        """Ask for bytes from a position; fewer come at the end of the file.

        Raises:
            TransientError: the request may succeed when it is repeated.
            RemoteError: it will not.
        """

    def fetch_whole(self) -> Reply:
        """Ask for the whole file, also from a server that sends no parts; see `fetch`."""

    def cancel(self) -> None:
        """Break the connections, so that waiting threads get an error at once."""
