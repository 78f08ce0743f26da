"""Write files that get their name only when they are complete and on the disk."""

import errno
import itertools
import os
import re
import threading
import time
import unicodedata
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from parfocal.processes import parse_token, this_process

PART_NAME = re.compile(r"\.(?P<owner>[0-9a-f]+-[0-9]+-[0-9]+)-[0-9]+\.part")
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)  # of a file that may not be written
MAX_PART_AGE_S = 86400.0  # of a process whose end cannot be found out here

PNG_MARK = ("Software", "parfocal")  # text in our own pictures that may be replaced

_numbers = itertools.count()


class OutputError(ValueError):
    """An output path that cannot be used, because something would be lost."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Return a temporary path next to `path`, and rename it to `path` at the end of the block.

    If the block fails or is interrupted, the temporary file is removed, and an existing `path` is
    unchanged.

    Raises:
        OSError: the file cannot be written; an error of the temporary path names `path` instead.
    """
    part = part_path(path)
    try:
        yield part
        sync(part)
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(part)):
            reason = f"{error.strerror or error}; nothing was written"
            raise OSError(error.errno, reason, str(path)) from error
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all, replacing an existing one.

    Raises:
        OSError: the file cannot be written.
    """
    with whole_file(path) as part:
        part.write_bytes(content)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files, all of them or none.

    Args:
        contents: content of each file, by path.

    Raises:
        OSError: a file cannot be written.
    """
    with ExitStack() as stack:
        for path, content in contents.items():
            part = stack.enter_context(whole_file(path))
            part.write_bytes(content)
            sync(part)  # now a full disk can no longer fail the renaming


def part_path(path: Path) -> Path:
    """Return an unused temporary path in the folder of a file that is about to be written.

    Temporary files that killed processes left in this folder are removed.
    """
    sweep_parts(path.parent)
    return path.with_name(f".{this_process().token}-{next(_numbers)}.part")


def read_only_reason(folder: Path) -> str | None:
    """Return why no file can be created in a folder, by trying it; None if one can.

    Other problems, such as a full disk, are left to whoever writes.
    """
    part = part_path(folder / "any")
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        return error.strerror if error.errno in READ_ONLY else None
    return None


@cache  # once per folder and process: what a process leaves behind it removes itself
def sweep_parts(folder: Path) -> None:
    """Remove the temporary files of processes that have ended, unless this has been done."""
    remove_dead_parts(folder)


def remove_dead_parts(folder: Path) -> None:
    """Remove the temporary files of processes that have ended."""
    with suppress(OSError):  # the folder is missing or read-only
        for entry in os.scandir(folder):
            name = PART_NAME.fullmatch(entry.name)
            if name is None:
                continue
            owner = parse_token(name["owner"])
            age = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if (owner is not None and owner.is_dead) or age > MAX_PART_AGE_S:
                Path(entry).unlink(missing_ok=True)


def refuse_slide_folder(out: Path, slides: Iterable[object]) -> None:
    """Refuse an output folder that holds slides, because results could overwrite them.

    Links are followed. A folder inside a slide that is a folder, or inside the data of a MIRAX
    slide, is refused as well.

    Args:
        out: folder to write to; it need not exist.
        slides: slide files and folders; remote slides, which are no paths, cannot be there.

    Raises:
        OutputError: the folder holds one of the slides.
    """
    if not out.exists():
        return
    identity = cache(_identity)  # many slides share a folder
    target, *above = map(_identity, (out.resolve(), *out.resolve().parents))
    for slide in (each for each in slides if isinstance(each, Path)):
        try:
            places = [slide.parent, *([slide.resolve().parent] if slide.is_symlink() else [])]
        except (OSError, RuntimeError, ValueError):
            continue  # an impossible name or a loop of links: this slide fails by itself
        inside = [slide, *([slide.with_suffix("")] if slide.suffix.lower() == ".mrxs" else [])]
        if target in map(identity, places) or {target, *above} & set(map(_identity, inside)):
            raise OutputError(
                f"{out}: this folder holds the slide {slide.name}, which results could overwrite. "
                "Choose another --out."
            )


def refuse_binary_file(path: Path) -> None:
    """Refuse to replace a file that is neither text, as reports and tables are, nor our picture.

    Raises:
        OutputError: the file is not text.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(2**16)
        if b"\0" in start and "\0".join(PNG_MARK).encode() not in start:
            raise OutputError(
                f"{path}: the file exists and is not text, so it is not replaced; it may be a "
                "slide. Choose another --out."
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what two paths share only if they are the same file or folder."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def path_exists(path: Path) -> bool:
    """Return whether a path exists; unlike `Path.exists`, False for one that is too long."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; unlike `Path.is_dir`, False for one that is too long."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Return whether a path is a file; unlike `Path.is_file`, False for one that is too long."""
    return os.path.isfile(path)  # noqa: PTH113


def name_key(name: str) -> str:
    """Return what two names share that are one file on disks of macOS and Windows.

    >>> name_key("S-1.svs") == name_key("s-1.SVS")
    True
    """
    return unicodedata.normalize("NFC", name).casefold()


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return  # Windows opens no folder
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class PositionedFile:
    """A file that is read, or written, at positions; threads and forked processes may share it.

    Args:
        path: the file.
        writable: whether to open it for writing, too, and to create it for this user only if it
            does not exist.

    Attributes:
        close: closes the file; called again, or when the object is gone, it does nothing.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        access = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self._handle = os.open(path, access | getattr(os, "O_BINARY", 0), 0o600)
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, os.close, self._handle)

    def read(self, length: int, offset: int) -> bytes:
        """Return up to `length` bytes from a position, fewer at the end of the file."""
        if hasattr(os, "pread"):  # does not use the position that all share
            return os.pread(self._handle, length, offset)
        with self._lock:
            os.lseek(self._handle, offset, os.SEEK_SET)
            return os.read(self._handle, length)

    def write(self, content: bytes, offset: int) -> None:
        """Write bytes at a position; a full disk may write only some of them, without an error."""
        if hasattr(os, "pwrite"):
            os.pwrite(self._handle, content, offset)
            return
        with self._lock:
            os.lseek(self._handle, offset, os.SEEK_SET)
            os.write(self._handle, content)

    def status(self) -> os.stat_result:
        """Return the size of the file, its time of modification, and the like."""
        return os.fstat(self._handle)

    def resize(self, size: int) -> None:
        """Cut the file, or extend it with zeros, to a number of bytes."""
        os.ftruncate(self._handle, size)
