"""Catch whatever goes wrong with one slide, so that the other slides of a batch are processed.

for path in paths:
    with catch_failure(path.name) as attempt:
        results.append(process(path))
    if attempt.reason is not None:
        failed[path] = attempt.reason
"""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from parfocal.printable import printable

logger = logging.getLogger(__name__)

MAX_REASON = 500  # characters
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# HDF5, SQLite and safetensors report a full disk in words only.
DISK_FULL_WORDS = ("no space left", "disk is full", "disk quota exceeded")


class EndsBatch(Exception):  # noqa: N818 (a property of errors, not an error of its own)
    """Base of errors that any other slide of a batch would meet, too, so that the batch ends."""


@dataclass
class SlideAttempt:
    """The outcome of processing one slide.

    Args:
        reason: why the slide failed, as one line of at most 500 characters; None if it did not.
        error: the error that was caught; None if the slide did not fail.
    """

    reason: str | None = None
    error: Exception | None = None


@contextmanager
def catch_failure(name: str) -> Iterator[SlideAttempt]:
    """Catch any error of a block that processes one slide, and log its traceback.

    The traceback of an error that parfocal itself raises is logged at level DEBUG, because its
    message says everything; that of any other error at level WARNING.

    Args:
        name: name of the slide, for the log.

    Yields:
        The outcome, which has the reason of the failure after the block.

    Raises:
        Exception: the disk is full, or it is an `EndsBatch`, so that no other slide can succeed
            either.
        KeyboardInterrupt: the command was interrupted.
    """
    attempt = SlideAttempt()
    try:
        yield attempt
    except Exception as error:  # damage raises anything
        reraise_interrupt(error)
        if is_disk_full(error) or isinstance(error, EndsBatch):
            raise
        attempt.reason, attempt.error = describe_failure(error), error
        level = logging.DEBUG if _is_expected(error) else logging.WARNING
        logger.log(level, "%s: %s", printable(name), attempt.reason, exc_info=error)


def describe_failure(error: BaseException) -> str:
    """Return an error as one printable line of at most 500 characters."""
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        message = "there is not enough memory for this slide; use a machine with more of it"
    elif isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror}; check the file and its permissions"
    elif not _is_expected(error):
        message = f"unexpected {type(error).__name__}: {message}"
    return shorten(message)


def shorten(text: str) -> str:
    """Return a text as one printable line of at most 500 characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= MAX_REASON else f"{line[: MAX_REASON - 4]} ..."


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, or one that caused it, says that a disk is full."""
    return any(
        (isinstance(each, OSError) and each.errno in DISK_FULL)
        or any(words in str(each).lower() for words in DISK_FULL_WORDS)
        for each in _chain(error)
    )


def reraise_interrupt(error: Exception) -> None:
    """Raise KeyboardInterrupt if one caused an error, as in a compiled call that it ended.

    Python turns an interrupt within a compiled function of h5py into a SystemError.
    """
    if any(isinstance(each, KeyboardInterrupt) for each in _chain(error)):
        raise KeyboardInterrupt from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what caused it, and so on."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        yield following
        seen.append(following)
        following = following.__cause__ or following.__context__


def _is_expected(error: BaseException) -> bool:
    """Return whether the message of an error is complete, because parfocal itself raised it."""
    return type(error).__module__.startswith("parfocal")
