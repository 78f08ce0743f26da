"""Open HDF5 files of features for one read, and turn whatever is wrong in them into an error."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from parfocal.features.errors import StoreError

# What h5py, numpy and the checks of the values raise if a file does not hold what it should.
WRONG_CONTENT = (
    *(OSError, RuntimeError, MemoryError),
    *(KeyError, IndexError, AttributeError, TypeError, ValueError, OverflowError),
)


@contextmanager
def reading(path: Path, *, tool: str = "parfocal") -> Iterator[h5py.File]:
    """Open a file of features for one read, without the locks that network file systems refuse.

    Args:
        path: HDF5 file.
        tool: tool that wrote the file, for the messages.

    Raises:
        StoreError: the file is missing or damaged.
    """
    own = tool == "parfocal"
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError:
        advice = (
            "Run `parfocal extract` for this slide."
            if own
            else f"Extract the features of this slide with {tool}, or remove it from the cohort."
        )
        raise StoreError(f"{path}: there is no such feature file. {advice}") from None
    except WRONG_CONTENT as error:
        advice = "" if own else f" with {tool}"
        raise StoreError(
            f"{path}: the feature file is incomplete or damaged ({error_cause(error)}). Delete it "
            f"and extract again{advice}."
        ) from error


def error_cause(error: Exception) -> str:
    """Return the operating system's message of an error that HDF5 wraps in its own."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = str(error.args[0] if error.args else "").strip()
    return text.splitlines()[0] if text else type(error).__name__
