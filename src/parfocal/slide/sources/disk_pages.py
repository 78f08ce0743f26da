"""Pages of remote files, kept in a folder between runs and shared by processes.

Each remote file has two files here: its pages at their own positions, in a file with holes, and a
checksum of each page. A page whose checksum does not fit, as after a crash, is fetched again.
"""

import logging
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from parfocal.files import PositionedFile
from parfocal.slide.sources.pages import PAGE_BYTES
from parfocal.slide.sources.url import SlideUrl

DIGEST_BYTES = 4
LIMIT_GIB = 10.0  # of a folder
BLOCK_BYTES = 512  # unit of st_blocks

logger = logging.getLogger(__name__)


class DiskPages:
    """The pages of one file.

    Args:
        path: file of the pages; that of the checksums lies beside it.
        pages: number of pages of the whole file.

    Raises:
        OSError: the files cannot be made.
    """

    def __init__(self, path: Path, pages: int) -> None:
        self._content = PositionedFile(path, writable=True)
        self._digests = PositionedFile(path.with_suffix(".crc"), writable=True)
        self._digests.resize(pages * DIGEST_BYTES)
        os.utime(path)

    def get(self, page: int) -> bytes | None:
        """Return a page; None if it is not kept, or damaged."""
        digest = self._digests.read(DIGEST_BYTES, page * DIGEST_BYTES)
        if not any(digest):
            return None
        content = self._content.read(PAGE_BYTES, page * PAGE_BYTES)
        return content if _digest(content) == digest else None

    def put(self, page: int, content: bytes) -> None:
        """Keep a page; a full disk only means that it is not kept."""
        with suppress(OSError):
            self._content.write(content, page * PAGE_BYTES)
            self._digests.write(_digest(content), page * DIGEST_BYTES)

    def close(self) -> None:
        """Close the files; called again, or when the object is gone, it does nothing."""
        self._content.close()
        self._digests.close()


def open_pages(folder: Path, url: SlideUrl) -> Callable[[str, int], DiskPages | None]:
    """Return a function that opens the kept pages of a file, from its identity and size.

    Args:
        folder: folder of the pages of all files.
        url: the file. Its name in the folder does not show it.
    """

    def open_for(identity: str, size: int) -> DiskPages | None:
        made_of = f"{url.secret_url}\0{identity}\0{size}\0{PAGE_BYTES}"
        key = sha256(made_of.encode()).hexdigest()[:40]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            delete_oldest(folder, limit=int(LIMIT_GIB * 2**30))
            return DiskPages(folder / f"{key}.pages", -(-size // PAGE_BYTES))
        except OSError as error:
            logger.warning(
                "%s: the folder of --remote-cache cannot be used (%s); what is read is kept in "
                "memory only",
                folder,
                error.strerror,
            )
            return None

    return open_for


def delete_oldest(folder: Path, *, limit: int) -> None:
    """Delete the files that were not opened for longest, until a folder keeps to a limit.

    Args:
        folder: folder of pages.
        limit: number of bytes on the disk.
    """
    statuses = [(path, path.stat()) for path in folder.glob("*.pages")]
    used = sum(map(_bytes_on_disk, (status for _, status in statuses)))
    for path, status in sorted(statuses, key=lambda each: each[1].st_mtime):
        if used <= limit:
            return
        path.with_suffix(".crc").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        used -= _bytes_on_disk(status)


def _bytes_on_disk(status: os.stat_result) -> int:
    """Return how much of the disk a file takes; holes take none, except on Windows."""
    blocks: int | None = getattr(status, "st_blocks", None)
    return status.st_size if blocks is None else blocks * BLOCK_BYTES


def _digest(content: bytes) -> bytes:
    """Return a checksum, which is never zero."""
    return (zlib.crc32(content) or 1).to_bytes(DIGEST_BYTES, "little")
