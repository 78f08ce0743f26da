"""Files that take their name only when they are whole and on the disk."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed to it at the end, removed upon any failure.

    Raises:
        OSError: as the block's own, of this path.
    """
    part = path.with_name(f".{path.name}.part")
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
    """Write a file whole or not at all; one that is there is replaced."""
    with whole_file(path) as part:
        part.write_bytes(content)


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write files of which none is worth anything alone: all of them whole, or none."""
    with ExitStack() as stack:
        for path, content in contents.items():
            part = stack.enter_context(whole_file(path))
            part.write_bytes(content)
            sync(part)  # the last that can run out of room; what is left to do is to rename


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
