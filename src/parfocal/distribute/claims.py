"""Claim a path for one process at a time, on any file system that several machines may share.

A claim is a small file that is created exclusively, names its holder, and is touched while the
holder works. If the holder is known to be dead, or if another process has watched the file for
`EXPIRY_S` without seeing it touched, the claim is taken over by exactly one process. Times of two
machines are never compared for that, so it does not matter how their clocks are set.
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

from parfocal.distribute.batch_job import this_job
from parfocal.distribute.watch import Sight, Watch, see
from parfocal.files import part_path
from parfocal.processes import Process, this_process

HEARTBEAT_S = 5.0
EXPIRY_S = 60.0  # longer than a file system or a busy computer delays a heartbeat
POLL_S = 0.05, 1.0  # first and longest pause of a process that waits for a claim
TAKEOVER_SUFFIX = ".takeover"

logger = logging.getLogger(__name__)


class ClaimError(Exception):
    """A path that another process works on; the message says which process."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim.

    Args:
        process: process of the holder.
        host: name of its machine.
        key: identifier of the claim itself.
        since: when it was made, in seconds since 1970.
        job: job of a batch system that the process belongs to, such as "slurm 123_4"; empty if it
            belongs to none.
        item: what the claim is for; empty for a folder.
        deaths: number of processes that ended while they held it, one after the other.
    """

    process: Process
    host: str
    key: str
    since: float
    job: str = ""
    item: str = ""
    deaths: int = 0

    @classmethod
    def new(cls, item: str = "", deaths: int = 0) -> "Holder":
        """Return a new holder in this process."""
        process, key = this_process(), uuid4().hex
        return cls(process, platform.node(), key, time.time(), this_job(), item, deaths)

    @classmethod
    def parse(cls, content: bytes) -> "Holder | None":
        """Return the holder that a claim file names; None if the content is damaged."""
        try:
            fields = json.loads(content)
            return cls(**{**fields, "process": Process(**fields["process"])})
        except (ValueError, TypeError, KeyError):
            return None

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        job = f" ({self.job})" if self.job else ""
        return f"process {self.process.pid} on {self.host}{job} since {since}"


class Claim:
    """A claim that this process holds.

    Args:
        path: the claim file.
        holder: what it contains.
        taken_from: the holder that it was taken over from; None if it was free or damaged.
    """

    def __init__(self, path: Path, holder: Holder, *, taken_from: Holder | None = None) -> None:
        self.path, self.holder, self.taken_from = path, holder, taken_from
        self._touched = _now()
        _heart.add(self)

    def check(self) -> None:
        """Check that the claim was not taken over, for example while the computer slept.

        Raises:
            ClaimError: another process has the claim now, or the file was removed.
        """
        current = read_holder(self.path)
        if current != self.holder:
            by = "removed" if current is None else f"taken over by {current}"
            raise ClaimError(
                f"{self.path.parent}: this process did not renew its claim for more than "
                f"{EXPIRY_S:.0f} s, and the claim was {by}. Run the command again."
            )

    def touch(self) -> None:
        """Show that the holder is alive."""
        with suppress(OSError):
            if read_holder(self.path) == self.holder:
                os.utime(self.path)
                self._touched = _now()

    def release(self) -> None:
        """Remove the claim file, if it is still of this claim."""
        _heart.remove(self)
        if self.holder.process != this_process():
            return  # inherited by a fork
        if _now() - self._touched < EXPIRY_S / 2:
            self._remove()
            return
        # It may be taken over right now, as after the process was stopped.
        with suppress(OSError):
            takeover = acquire(_takeover_path(self.path, self.holder), Watch())
            if takeover is not None:
                self._remove()
                takeover.release()

    def _remove(self) -> None:
        if read_holder(self.path) == self.holder:
            self.path.unlink(missing_ok=True)


class _Heart:
    """Touches the claims of this process from one thread, which starts with the first claim."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[str, Claim] = {}
        self._thread: threading.Thread | None = None

    def add(self, claim: Claim) -> None:
        with self._lock:
            self._claims[claim.holder.key] = claim
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)
                self._thread.start()

    def remove(self, claim: Claim) -> None:
        with self._lock:
            self._claims.pop(claim.holder.key, None)

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_S)
            with self._lock:
                claims = list(self._claims.values())
            for claim in claims:
                claim.touch()


_heart = _Heart()


def _forget_after_fork() -> None:
    """Leave the claims to the parent; a fork inherits no threads."""
    global _heart  # noqa: PLW0603 (the lock of the old one may be held forever)
    _heart = _Heart()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_after_fork)


@contextmanager
def hold(path: Path, *, wait_s: float = 0.0) -> Iterator[Claim]:
    """Hold a claim for a block.

    A claim that is old is watched for a minute before it is taken over, unless its holder is known
    to be dead.

    Args:
        path: claim file; its folder must exist.
        wait_s: how long to wait for another holder to release it.

    Raises:
        ClaimError: another process holds the claim.
        OSError: the file cannot be written.
    """
    watch, deadline, (pause_s, longest_s) = Watch(), time.monotonic() + wait_s, POLL_S
    while (claim := acquire(path, watch)) is None:
        if time.monotonic() >= deadline and (_is_recent(path) or watch.is_alive(path)):
            raise ClaimError(
                f"{path.parent}: in use by {read_holder(path) or 'another process'}. Wait until it "
                "has ended, or choose another folder."
            )
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s, HEARTBEAT_S)
    try:
        remove_old_takeovers(path.parent)
        yield claim
    finally:
        claim.release()


def acquire(path: Path, watch: Watch, *, item: str = "") -> Claim | None:
    """Make a claim, or take over one that is abandoned; return None if another process holds it.

    Args:
        path: claim file; its folder must exist.
        watch: what was seen of the claim before.
        item: what the claim is for, if not for the folder.

    Raises:
        OSError: the file cannot be written.
    """
    seen = see(path)
    if seen is not None and not _is_abandoned(path, seen, watch):
        return None
    before = None if seen is None else Holder.parse(seen.content)
    holder = Holder.new(item, 0 if before is None else before.deaths + 1)
    # Created under another name and linked, so that no other process sees half of it.
    draft = part_path(path)
    try:
        draft.write_text(json.dumps(asdict(holder)), encoding="utf-8")
        if seen is not None:
            return _take_over(path, seen, draft, holder, watch)
        link_new(draft, path)
    except FileExistsError:
        return None
    finally:
        draft.unlink(missing_ok=True)
    return Claim(path, holder)


def read_holder(path: Path) -> Holder | None:
    """Return who holds a claim; None if there is no claim, or it is being written."""
    try:
        return Holder.parse(path.read_bytes())
    except OSError:
        return None


def remove_old_takeovers(folder: Path) -> None:
    """Remove what a process left that was killed while it took over a claim in a folder."""
    for left in folder.glob(f".*{TAKEOVER_SUFFIX}"):
        claim = acquire(left, Watch())
        if claim is not None:
            claim.release()


def _is_abandoned(path: Path, seen: Sight, watch: Watch) -> bool:
    holder = Holder.parse(seen.content)
    if holder is not None and holder.process.is_dead:
        return True
    return watch.quiet_s(path, seen, longest_gap_s=HEARTBEAT_S) >= EXPIRY_S


def _take_over(path: Path, seen: Sight, draft: Path, holder: Holder, watch: Watch) -> Claim | None:
    """Replace an abandoned claim, unless another process does so or its holder is back."""
    before = Holder.parse(seen.content)
    takeover = acquire(_takeover_path(path, before), watch)
    if takeover is None:
        return None
    try:
        if see(path) != seen:
            return None
        draft.replace(path)
    finally:
        takeover.release()
    if before is not None and not before.process.is_dead:
        logger.warning(
            "%s: taken over from %s, which did not renew its claim for %.0f s",
            *(before.item or path.parent, before, EXPIRY_S),
        )
    elif before is not None:
        logger.info("%s: taken over from %s, which has ended", before.item or path.parent, before)
    return Claim(path, holder, taken_from=before)


def _takeover_path(path: Path, holder: Holder | None) -> Path:
    """Return the claim file of those who want to take over one particular claim."""
    key = f"damaged-{path.name.lstrip('.')}" if holder is None else holder.key
    name = f".{key}{TAKEOVER_SUFFIX}"
    return path.with_name(name if name != path.name else f".of-{key}{TAKEOVER_SUFFIX}")


def link_new(draft: Path, path: Path) -> None:
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


def _is_recent(path: Path) -> bool:
    """Return whether a claim was touched within `EXPIRY_S` by the clock of its file system.

    This only saves the time of watching: no claim is taken over because of a clock.
    """
    probe = part_path(path.with_name("clock"))
    try:
        probe.touch()
        return 0 <= probe.stat().st_mtime - path.stat().st_mtime < EXPIRY_S
    except FileNotFoundError:
        return False  # released meanwhile
    finally:
        probe.unlink(missing_ok=True)


def _now() -> float:
    """Return seconds of a clock that also runs while the machine sleeps, if there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
