"""Claim a path for one process at a time, on any file system that several machines may share.

A claim is a small file that is created exclusively, names its holder, and is touched while the
holder works. If the holder is known to be dead, or the file has not been touched for
`EXPIRY_S`, the claim is taken over, so a job that was killed blocks nobody for long.
"""

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from parfocal.files import part_path
from parfocal.processes import Process, this_process

HEARTBEAT_S = 5.0
EXPIRY_S = 60.0  # longer than a file system or a busy computer delays a heartbeat
POLL_S = 0.05, 1.0  # first and longest pause of a process that waits for a claim

logger = logging.getLogger(__name__)


class ClaimError(Exception):
    """A path that another process works on; the message says which process."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim.

    Args:
        process: process of the holder.
        host: name of its machine.
        job: identifier of the claim itself.
        since: when it was made, in seconds since 1970.
    """

    process: Process
    host: str
    job: str
    since: float

    @classmethod
    def new(cls) -> "Holder":
        """Return a new holder in this process."""
        return cls(this_process(), platform.node(), uuid4().hex, time.time())

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.process.pid} on {self.host} since {since}"


class Claim:
    """A claim that this process holds.

    Args:
        path: the claim file.
        holder: what it contains.
    """

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim {path}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check that the claim was not taken over, for example while the computer slept.

        Raises:
            ClaimError: another process has the claim now, or the file was removed.
        """
        current = read_holder(self.path)
        if current != self.holder:
            by = "removed" if current is None else f"taken over by {current}"
            raise ClaimError(
                f"{self.path.parent}: this process did not show that it is alive for more than "
                f"{EXPIRY_S:.0f} s, and its claim was {by}. Run the command again."
            )

    def release(self) -> None:
        """Remove the claim file, if it is still of this claim."""
        self._stop.set()
        self._thread.join()
        if self.holder.process == this_process() and read_holder(self.path) == self.holder:
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with suppress(OSError):
                if read_holder(self.path) == self.holder:
                    os.utime(self.path)


@contextmanager
def hold(path: Path, *, wait_s: float = 0.0) -> Iterator[Claim]:
    """Hold a claim for a block.

    Args:
        path: claim file; its folder must exist.
        wait_s: how long to wait for another holder to release it.

    Raises:
        ClaimError: another process holds the claim.
        OSError: the file cannot be written.
    """
    deadline, (pause_s, longest_s) = time.monotonic() + wait_s, POLL_S
    while (claim := _acquire(path)) is None:
        if time.monotonic() >= deadline:
            raise ClaimError(
                f"{path.parent}: in use by {read_holder(path) or 'another process'}. Wait until it "
                "has ended, or choose another folder."
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s)
    try:
        yield claim
    finally:
        claim.release()


def read_holder(path: Path) -> Holder | None:
    """Return who holds a claim; None if there is no claim, or it is being written."""
    try:
        content = json.loads(path.read_bytes())
        return Holder(**{**content, "process": Process(**content["process"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _acquire(path: Path) -> Claim | None:
    """Create a claim, taking over one that is left; return None if another process holds it."""
    if path.exists() and not _remove_abandoned(path):
        return None
    holder = Holder.new()
    # Created under another name and linked, so that no other process sees half of it.
    draft = part_path(path)
    draft.write_text(json.dumps(asdict(holder)), encoding="utf-8")
    try:
        _link(draft, path)
    except FileExistsError:
        return None
    finally:
        draft.unlink(missing_ok=True)
    return Claim(path, holder)


def _link(draft: Path, path: Path) -> None:
    """Give a file its second name, unless something has that name.

    Raises:
        FileExistsError: the name is in use.
    """
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with path.open("xb") as file:
            file.write(draft.read_bytes())


def _remove_abandoned(path: Path) -> bool:
    """Remove a claim whose holder has ended; return whether the path is free now."""
    holder = read_holder(path)
    if not _is_abandoned(path, holder):
        return False
    moved = part_path(path)
    try:
        path.replace(moved)
    except FileNotFoundError:
        return True
    if read_holder(moved) != holder:  # in between, another process has taken it over
        with suppress(OSError):
            _link(moved, path)
        moved.unlink(missing_ok=True)
        return False
    moved.unlink(missing_ok=True)
    if holder is not None:
        logger.info("%s: the claim of %s was left; it has ended", path.parent, holder)
    return True


def _is_abandoned(path: Path, holder: Holder | None) -> bool:
    if holder is not None and holder.process.is_dead:
        return True
    try:
        touched = path.stat().st_mtime
        if _now_on(path.parent) - touched < EXPIRY_S:
            return False
        time.sleep(1.5 * HEARTBEAT_S)  # perhaps a clock was set, and the holder is alive
        return path.stat().st_mtime == touched
    except FileNotFoundError:
        return True


def _now_on(folder: Path) -> float:
    """Return the time by the clock of a file system, which may differ from that of the machine."""
    probe = part_path(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
