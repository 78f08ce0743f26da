"""PageFetcher: fetches pages of a file in threads of its own, and keeps them for a while.

Readers wait for pages and not for requests, so a reader can be released at once, and many ranges
are fetched side by side.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial
from itertools import islice

from parfocal.cost import CostMeter
from parfocal.slide.errors import SlideError
from parfocal.slide.sources.daemon_pool import DaemonPool
from parfocal.slide.sources.disk_pages import DiskPages
from parfocal.slide.sources.errors import CanceledError, ChangedError, RemoteError, TransientError
from parfocal.slide.sources.pages import PAGE_BYTES, Joining, Run, join_pages, touched_pages
from parfocal.slide.sources.source import Range
from parfocal.slide.sources.transport import Reply, Transport
from parfocal.slide.sources.url import SlidePath, SlideUrl

PARALLEL_REQUESTS = 8
TRIES = 8  # of a request without any progress
FIRST_WAIT_S, MAX_WAIT_S = 0.1, 30.0
MEMORY_PAGES = 2**26 // PAGE_BYTES  # 64 MiB of a file
AHEAD_PAGES = MEMORY_PAGES // 2
LEAST_READ = 2**13  # bytes of a read that was not announced, such as of a directory


class PageFetcher:
    """The pages of one file in one process, and the threads that fetch them.

    Args:
        path: the file.
        transport: makes the requests.
        cost_meter: counts the bytes that come; the transport counts the requests.
        joining: which pages one request fetches.
        least_read: bytes that a read fetches at least that was not announced.
        disk: keeps pages between runs; None to keep them in memory only.
    """

    def __init__(
        self,
        path: SlidePath,
        transport: Transport,
        cost_meter: CostMeter,
        *,
        joining: Joining,
        least_read: int = LEAST_READ,
        disk: DiskPages | None = None,
    ) -> None:
        self._path, self._transport, self._cost_meter = path, transport, cost_meter
        self.joining, self.disk, self._least_read = joining, disk, least_read
        self._pages: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._pool = DaemonPool(PARALLEL_REQUESTS)
        self.size, self.identity = -1, ""

    def expect(self, size: int, identity: str) -> None:
        """Set the size and identity that each reply must have."""
        self.size, self.identity = size, identity

    def start(self, end_bytes: int) -> None:
        """Fetch both ends of the file, which has its size and identity.

        Args:
            end_bytes: length of an end.
        """
        with self._lock:
            self._schedule((0, end_bytes // PAGE_BYTES))
            first = self._pages[0]
        first.result()
        tail = max(0, self.size - end_bytes), end_bytes
        self.want(touched_pages([tail], self.size))

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from a position; the range lies in the file, and is not empty."""
        wanted = touched_pages([(offset, length)], self.size)
        pages = self.want(wanted, extra=max(self._least_read, length // 2))
        content = b"".join(page.result() for page in pages)
        start = offset - wanted[0] * PAGE_BYTES
        return content[start : start + length]

    def read_ahead(self, ranges: Sequence[Range]) -> int:
        """Start fetching ranges, as far as the memory allows; return how many, from the first."""
        pages: set[int] = set()
        count = 0
        for part in ranges:
            touched = touched_pages([part], self.size)
            if count and len(pages) + len(touched) > AHEAD_PAGES:
                break
            pages.update(touched)
            count += 1
        if len(pages) <= AHEAD_PAGES:  # else a single range, which is fetched when it is read
            self.want(sorted(pages))
        return count

    def want(self, pages: Sequence[int], *, extra: int = 0) -> list[Future[bytes]]:
        """Return pages that are fetched or being fetched, and start fetching the others.

        Args:
            pages: the pages, sorted.
            extra: bytes that are fetched beyond the last page, if any has to be fetched.
        """
        with self._lock:
            if self._closed.is_set():
                raise CanceledError(self._path)
            missing = [page for page in pages if not self._has(page)]
            missing = [page for page in missing if not self._found_on_disk(page)]
            if missing:
                missing += self._following(missing[-1] + 1, extra // PAGE_BYTES)
            for run in join_pages(missing, self.joining):
                self._schedule(run)
            futures = [self._pages[page] for page in pages]
            for page in pages:
                self._pages.move_to_end(page)
            self._drop_oldest()
        return futures

    def close(self) -> None:
        """Break the connections, and release those who wait for pages."""
        with self._lock:
            self._closed.set()
            waiting = [page for page in self._pages.values() if not page.done()]
            self._pages.clear()
        self._pool.close()
        for page in waiting:
            settle(page, error=CanceledError(self._path))
        self._transport.cancel()

    def _following(self, page: int, count: int) -> list[int]:
        """Return the pages that follow, up to one that is there already."""
        last = min(page + count, -(-self.size // PAGE_BYTES))
        present = (number for number in range(page, last) if self._has(number))
        return list(range(page, next(present, last)))

    def _has(self, page: int) -> bool:
        future = self._pages.get(page)
        return future is not None and not (future.done() and future.exception() is not None)

    def _found_on_disk(self, page: int) -> bool:
        content = None if self.disk is None else self.disk.get(page)
        if content is None:
            return False
        self._pages[page] = Future()
        self._pages[page].set_result(content)
        return True

    def _schedule(self, run: Run) -> None:
        """Start fetching a run of pages; those that are there already are not replaced."""
        futures: list[Future[bytes] | None] = []
        for page in range(*run):
            if self._has(page):
                futures.append(None)
            else:
                self._pages[page] = Future()
                futures.append(self._pages[page])
        self._pool.submit(partial(self._fetch, run[0], futures))

    def _drop_oldest(self) -> None:
        for page in list(islice(self._pages, max(0, len(self._pages) - MEMORY_PAGES))):
            if self._pages[page].done():
                del self._pages[page]

    def _fetch(self, first: int, futures: Sequence[Future[bytes] | None]) -> None:
        """Fetch a run of pages, and repeat requests that fail until there are too many failures."""
        done, failures = 0, 0
        try:
            while done < len(futures):
                before = done
                try:
                    for content in self._received(first + done, len(futures) - done):
                        self._keep(first + done, futures[done], content)
                        done += 1
                    if (first + done) * PAGE_BYTES >= self.size:
                        break
                    if done < len(futures):
                        raise TransientError("the answer ended early")
                except TransientError as error:
                    failures = 1 if done > before else failures + 1
                    if failures >= TRIES:
                        raise self._given_up(error) from None
                    self._wait(failures, error.wait_s)
        except BaseException as error:  # the readers raise it
            for future in futures[done:]:
                settle(future, error=self._presentable(error))
        else:
            for future in futures[done:]:  # beyond the end of the file
                settle(future)

    def _received(self, page: int, count: int) -> "PageIterator":
        reply = self._transport.fetch(page * PAGE_BYTES, count * PAGE_BYTES)
        if self.size < 0:
            self.expect(reply.size, reply.identity)
        elif (reply.size, reply.identity) != (self.size, self.identity):
            raise ChangedError(self._path)
        end = min((page + count) * PAGE_BYTES, self.size)
        return PageIterator(reply, end - page * PAGE_BYTES, self._cost_meter)

    def _keep(self, page: int, future: Future[bytes] | None, content: bytes) -> None:
        if future is not None:
            settle(future, content=content)
            if self.disk is not None:
                self.disk.put(page, content)

    def _wait(self, failures: int, asked_s: float) -> None:
        """Wait before a request is repeated, unless the source is closed."""
        waited = min(MAX_WAIT_S, max(asked_s, FIRST_WAIT_S * 2 ** (failures - 1)))
        if self._closed.wait(waited):
            raise CanceledError(self._path)

    @property
    def _place(self) -> str:
        return self._path.host if isinstance(self._path, SlideUrl) else "the disk"

    def _given_up(self, error: TransientError) -> RemoteError:
        return RemoteError(
            self._path,
            f"{self._place} failed {TRIES} times in a row ({error}). Check the network and the "
            "server, then run the same command again.",
        )

    def _presentable(self, error: BaseException) -> Exception:
        """Return an error without the text of other libraries, which may hold the whole URL."""
        if isinstance(error, SlideError | OSError):
            return error
        kind = type(error).__name__
        return RemoteError(self._path, f"reading from {self._place} failed ({kind}).")


class PageIterator:
    """Cuts the chunks of a reply into pages, and counts their bytes.

    Args:
        reply: the reply, from the start of a page.
        length: number of bytes to expect.
        cost_meter: counts the bytes.
    """

    def __init__(self, reply: Reply, length: int, cost_meter: CostMeter) -> None:
        self._chunks, self._left, self._cost_meter = reply.chunks, length, cost_meter
        self._buffer = bytearray()

    def __iter__(self) -> "PageIterator":
        return self

    def __next__(self) -> bytes:
        """Return the next page; the chunks that end early end the iteration."""
        if self._left <= 0:
            for _ in self._chunks:  # lets the transport see the end of its answer
                break
            raise StopIteration
        wanted = min(PAGE_BYTES, self._left)
        while len(self._buffer) < wanted:
            chunk = next(self._chunks)
            self._cost_meter.add_bytes(len(chunk))
            self._buffer += chunk
        content = bytes(self._buffer[:wanted])
        del self._buffer[:wanted]
        self._left -= wanted
        return content


def settle(
    future: Future[bytes] | None, *, content: bytes = b"", error: Exception | None = None
) -> None:
    """Set the result of what is fetched, unless that was done when the source was closed.

    Args:
        future: who waits for it; None for nobody.
        content: what was fetched.
        error: why it could not be; None if it was.
    """
    if future is None or future.done():
        return
    try:
        if error is None:
            future.set_result(content)
        else:
            future.set_exception(error)
    except InvalidStateError:  # by another thread, at this moment
        return
