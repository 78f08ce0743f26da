"""ByteSource: the bytes of a slide file, read by position."""

import io
import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

Range = tuple[int, int]  # offset and length in bytes


@runtime_checkable
class ByteSource(Protocol):
    """The bytes of a file. Threads may share it, and it works after a fork."""

    @property
    def size(self) -> int:
        """Number of bytes."""

    @property
    def identity(self) -> str:
        """Text that changes if the file is replaced."""

    @property
    def is_remote(self) -> bool:
        """Whether each byte has to come over a network."""

    @property
    def reads_ahead(self) -> bool:
        """Whether `read_ahead` is of any use."""

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from a position, fewer at the end of the file; raise if they do not come."""

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of several ranges, which are fetched together."""

    def read_ahead(self, ranges: Sequence[Range]) -> int:
        """Start fetching ranges that will be read soon, as far as the memory allows.

        Returns:
            How many of the ranges, from the first, are fetched or need not be.
        """

    def cancel(self) -> None:
        """Let reads that wait in other threads fail at once; the source is then closed."""

    def close(self) -> None:
        """Release what the source holds."""


class SourceFile(io.RawIOBase):
    """A source as a file with a position, for libraries that read one.

    Args:
        source: the source, which stays open.

    Attributes:
        error: the first error of the source, which a library may have swallowed.
    """

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self._source, self._position = source, 0
        self.error: Exception | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, origin: int = os.SEEK_SET) -> int:
        """Set and return the position."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size}
        position = start[origin] + offset
        if position < 0:
            raise ValueError(f"position {position} lies before the file")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; all that follow if it is negative."""
        rest = max(0, self._source.size - self._position)
        try:
            content = self.fetch(self._position, rest if size < 0 else min(size, rest))
        except Exception as error:
            self.error = self.error or error
            raise
        self._position += len(content)
        return content

    def fetch(self, offset: int, length: int) -> bytes:
        """Return bytes from a position."""
        return self._source.read(offset, length)

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Read into a buffer."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
