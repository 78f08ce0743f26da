"""What the workers of tests do; in a module of its own, which worker processes can import."""

import logging
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

from parfocal.threads import thread_count


def build(folder):
    """Return a function that keeps a line per item in a folder, and misbehaves by its name."""
    return partial(_process, folder)


def build_none(folder):
    """Fail to build, as an encoder that cannot be loaded does."""
    raise ValueError("no such encoder")


def build_dying():
    """End before there is a function."""
    os.kill(os.getpid(), signal.SIGKILL)


def _process(folder: Path, item: str):
    with (folder / item.partition("-")[0]).open("a") as file:
        file.write(f"{os.getpid()}\n")
    tries = len((folder / item.partition("-")[0]).read_text().splitlines())
    if item.endswith("-kills") or (item.endswith("-kills-once") and tries == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if item.endswith("-raises"):
        raise ValueError(f"{item} is bad")
    if item.endswith("-warns"):
        logging.getLogger("parfocal.test").warning("%s is odd", item)
    if item.endswith("-waits"):
        time.sleep(0.3)
        return threading.active_count()
    return f"{item} of {os.environ['OMP_NUM_THREADS']} {thread_count(8)}"


class Noting:
    """A function that notes what it is given, and when it ends."""

    def __init__(self, folder: Path):
        self._file = folder / "noted"

    def __call__(self, item: str):
        self._note(item)
        return item

    def announce(self, item: str):
        self._note(f"ahead-{item}")

    def close(self):
        self._note("end")

    def _note(self, text: str):
        with self._file.open("a") as file:
            file.write(f"{text}\n")


def load_tiny():
    """Return the encoders of two magnifications."""
    from parfocal.encoders.loading import load_encoder  # noqa: PLC0415 (torch takes seconds)

    return [load_encoder("tiny")] * 2
