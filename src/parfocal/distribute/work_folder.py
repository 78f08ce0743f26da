"""Where the state of shared work is: a hidden folder in the output folder.

OUT/.work/list-HASH         the items of a command, in order
OUT/.work/claims/ITEM       an item that a process works on, see `parfocal.distribute.claims`
OUT/.work/failed/ITEM       an item that failed, with the reason
OUT/.work/PROCESS.log       what one process did; no other process writes to it
OUT/.work/claim             held for a moment when a command starts
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

FOLDER = ".work"
LOG_SUFFIX = ".log"
LIST_PREFIX = "list-"
MAX_NAME = 100  # characters of an item's name in the name of a file
FULL = (errno.ENOSPC, errno.EDQUOT)


class WorkFolderError(Exception):
    """The state of shared work cannot be read or written; the message says what to do."""


def work_folder(out: Path) -> Path:
    """Return the folder of the state of a command that writes to a folder, or to one file."""
    if out.suffix == ".jsonl":
        return out.with_name(f".{out.name}{FOLDER}")
    return out / FOLDER


def file_name(item: str) -> str:
    """Return a name of a file for an item; two items never have the same."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", item)[:MAX_NAME]
    if plain == item and not plain.startswith("."):
        return plain
    return f"{plain.lstrip('.')}-{sha256(item.encode(errors='surrogateescape')).hexdigest()[:12]}"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn the errors of a block that writes to a work folder into one that says what to do.

    Raises:
        WorkFolderError: the folder was removed, or may not be written to.
        OSError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        if not folder.is_dir():
            raise WorkFolderError(
                f"{folder.parent}: the folder was removed while this command used it. Run the "
                "command again."
            ) from error
        raise WorkFolderError(
            f"{folder}: the claims of this command cannot be written ({error.strerror}). Make the "
            "folder writable for this user, or choose another --out."
        ) from error


def refresh(folder: Path) -> None:
    """Make files that other machines have created in a folder visible here.

    A network file system may remember for a minute that a file did not exist. It asks its server
    again when the folder is opened.
    """
    if os.name == "posix":
        os.close(os.open(folder, os.O_RDONLY))
