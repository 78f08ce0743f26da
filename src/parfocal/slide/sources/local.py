"""LocalSource: a file on this computer, or on a disk that it has mounted."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from parfocal.cost import CostMeter
from parfocal.files import PositionedFile
from parfocal.slide.sources.page_fetcher import PageFetcher
from parfocal.slide.sources.pages import PAGE_BYTES, Joining
from parfocal.slide.sources.source import Range
from parfocal.slide.sources.transport import Reply

# A disk whose reads take this long on average seeks, or lies at the end of a network.
SLOW_READ_S = 0.002
JUDGED_READS = 4  # before the speed of a disk is judged
# On such a disk, a read takes as long as 512 KiB more of it.
LEAST_READ = 2**18
JOINING = Joining(max_gap=2**19 // PAGE_BYTES, max_runs=1, max_waste=0, longest=2**22 // PAGE_BYTES)


class LocalSource:
    """A local file; see `ByteSource`.

    Reads of a disk that turns out to be slow are joined and made ahead; others are made one by one,
    since the system keeps the file in memory.

    Args:
        path: the file.
        cost_meter: counts bytes and reads.

    Raises:
        OSError: the file cannot be opened.
    """

    is_remote = False

    def __init__(self, path: Path, cost_meter: CostMeter) -> None:
        self._path, self._cost_meter = path, cost_meter
        self._file = PositionedFile(path)
        status = self._file.status()
        self.size = status.st_size
        self.identity = f"{status.st_size} {status.st_mtime_ns}"
        self._reads, self._seconds = 0, 0.0
        self._fetchers: dict[int, PageFetcher] = {}
        cost_meter.set_file_bytes(self.size)

    @property
    def reads_ahead(self) -> bool:
        """Whether the disk is slow."""
        return self._reads >= JUDGED_READS and self._seconds > SLOW_READ_S * self._reads

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from a position, fewer at the end of the file."""
        fetcher = self._fetcher()
        if fetcher is not None:
            length = min(length, self.size - offset)
            return fetcher.read(offset, length) if length > 0 else b""
        content = self._read_file(offset, length)
        self._cost_meter.add_bytes(len(content), requests=1)
        return content

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of several ranges."""
        return [self.read(offset, length) for offset, length in ranges]

    def read_ahead(self, ranges: Sequence[Range]) -> int:
        """Start reading ranges that will be read soon, if the disk is slow; see `ByteSource`."""
        fetcher = self._fetcher()
        return len(ranges) if fetcher is None else fetcher.read_ahead(ranges)

    def fetch(self, offset: int, length: int) -> Reply:
        """Read bytes as the answer to a request; see `Transport`."""
        self._cost_meter.add_bytes(0, requests=1)
        content = self._read_file(offset, length)
        return Reply(self.size, self.identity, iter([content]))

    def fetch_whole(self) -> Reply:
        """Read the whole file; see `Transport`."""
        return Reply(self.size, self.identity, self._blocks())

    def cancel(self) -> None:
        """Release those who wait for parts that are read ahead."""
        fetcher = self._fetchers.pop(os.getpid(), None)
        if fetcher is not None:
            fetcher.close()

    def close(self) -> None:
        """Close the file; called again, or when the object is gone, it does nothing."""
        self.cancel()
        self._file.close()

    def _fetcher(self) -> PageFetcher | None:
        """Return what reads ahead in this process; None while the disk is not known to be slow."""
        process = os.getpid()
        if process not in self._fetchers and self.reads_ahead:
            fetcher = PageFetcher(
                *(self._path, self, self._cost_meter), joining=JOINING, least_read=LEAST_READ
            )
            fetcher.expect(self.size, self.identity)
            self._fetchers.setdefault(process, fetcher)
        return self._fetchers.get(process)

    def _blocks(self) -> Iterator[bytes]:
        for offset in range(0, self.size, 2**22):
            yield self._read_file(offset, 2**22)

    def _read_file(self, offset: int, length: int) -> bytes:
        start = time.perf_counter()
        content = self._file.read(length, offset)
        self._seconds += time.perf_counter() - start
        self._reads += 1
        return content
