"""Write files that get their name only when they are complete and on the disk."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Return a temporary path next to `path`, and rename it to `path` at the end of the block.

    If the block fails or is interrupted, the temporary file is removed, and an existing `path` is
    unchanged.

    Raises:
        OSError: the file cannot be written; an error of the temporary path names `path` instead.
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


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
