"""RemoteSource: a remote file, of which only the requested parts are fetched."""

import os
import weakref
from collections.abc import Callable, Sequence

from parfocal.cost import CostMeter
from parfocal.slide.sources.disk_pages import DiskPages
from parfocal.slide.sources.page_fetcher import PageFetcher
from parfocal.slide.sources.pages import PAGE_BYTES, Joining
from parfocal.slide.sources.source import Range
from parfocal.slide.sources.transport import Transport
from parfocal.slide.sources.url import SlideUrl

END_BYTES = 2**20  # fetched at both ends of a file: they identify it, and often hold directories
# A request costs as long as some 48 KiB: 30 ms in one of 8 connections, at 100 Mbit/s.
MAX_GAP = 3 * 2**14 // PAGE_BYTES
MAX_RUNS = 30
WASTE_SHARE = 0.02  # of the file, fetched in vain at a time to keep to MAX_RUNS
LONGEST_RUN = 2**22 // PAGE_BYTES
# A model reads about a percent of a larger file; there, only close ranges are joined, because the
# gaps would make up much of what is fetched.
LARGE_FILE = 400 * 10**6
LARGE_FILE_GAP = 2**12 // PAGE_BYTES


class RemoteSource:
    """A remote file; see `ByteSource`.

    Args:
        url: the file.
        connect: opens a transport; called once in each process.
        cost_meter: counts the bytes that come.
        open_disk: opens the pages kept between runs, from identity and size; None to keep pages in
            memory only.

    Raises:
        RemoteError: the file cannot be read.
    """

    is_remote = reads_ahead = True

    def __init__(
        self,
        url: SlideUrl,
        connect: Callable[[], Transport],
        cost_meter: CostMeter,
        *,
        open_disk: Callable[[str, int], DiskPages | None] | None = None,
    ) -> None:
        self._url, self._connect, self._cost_meter = url, connect, cost_meter
        self._disk: DiskPages | None = None
        first = self._make_fetcher(Joining(MAX_GAP, MAX_RUNS, 0, LONGEST_RUN))
        try:
            first.start(END_BYTES)
        except BaseException:
            first.close()
            raise
        self.size, self.identity = first.size, first.identity
        cost_meter.set_file_bytes(self.size)
        self._joining = joining_for(self.size)
        first.joining = self._joining
        if open_disk is not None:
            self._disk = first.disk = open_disk(self.identity, self.size)
        self._fetchers = {os.getpid(): first}
        self._finalize = weakref.finalize(self, _close_own, self._fetchers)

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from a position, fewer at the end of the file.

        Raises:
            RemoteError: they do not come.
        """
        length = min(length, self.size - offset)
        return self._fetcher().read(offset, length) if length > 0 else b""

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of several ranges, which are fetched together."""
        contents: list[bytes] = []
        while len(contents) < len(ranges):
            rest = ranges[len(contents) :]
            contents += [self.read(*part) for part in rest[: self.read_ahead(rest)]]
        return contents

    def read_ahead(self, ranges: Sequence[Range]) -> int:
        """Start fetching ranges that will be read soon; see `ByteSource`."""
        return self._fetcher().read_ahead(ranges)

    def cancel(self) -> None:
        """Let reads that wait in other threads fail at once; the source is then closed."""
        fetcher = self._fetchers.get(os.getpid())
        if fetcher is not None:
            fetcher.close()

    def close(self) -> None:
        """Break the connections of this process, and forget its pages."""
        _close_own(self._fetchers)

    def _fetcher(self) -> PageFetcher:
        """Return the fetcher of this process; threads and connections do not survive a fork."""
        process = os.getpid()
        if process not in self._fetchers:
            fetcher = self._make_fetcher(self._joining)
            fetcher.expect(self.size, self.identity)
            self._fetchers.setdefault(process, fetcher)
        return self._fetchers[process]

    def _make_fetcher(self, joining: Joining) -> PageFetcher:
        return PageFetcher(
            self._url, self._connect(), self._cost_meter, joining=joining, disk=self._disk
        )


def joining_for(size: int) -> Joining:
    """Return which pages of a file one request fetches.

    Args:
        size: bytes of the file.
    """
    if size >= LARGE_FILE:
        return Joining(LARGE_FILE_GAP, MAX_RUNS, 0, LONGEST_RUN)
    return Joining(MAX_GAP, MAX_RUNS, int(WASTE_SHARE * size / PAGE_BYTES), LONGEST_RUN)


def _close_own(fetchers: dict[int, PageFetcher]) -> None:
    """Close the fetcher of this process; that of a parent is in use there."""
    fetcher = fetchers.pop(os.getpid(), None)
    if fetcher is not None:
        fetcher.close()
