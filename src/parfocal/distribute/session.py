"""The part of one process in shared work: its log, and what it has seen of other processes."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from parfocal.distribute.claims import acquire, hold, read_holder, remove_old_takeovers
from parfocal.distribute.failures import Failures
from parfocal.distribute.watch import Watch
from parfocal.distribute.work_folder import LIST_PREFIX, file_name, work_folder, writing
from parfocal.distribute.worklog import (
    LIST_FORMAT,
    LIST_FORMAT_VERSION,
    NewEvents,
    State,
    WorkLog,
    Writer,
    merge_ended_logs,
    read_logs,
)
from parfocal.files import sweep_parts, write_whole
from parfocal.processes import Process, this_process

START_WAIT_S = 600.0  # for the other processes of a large job, which start at the same time
READ_EVERY_S = 0.5


@dataclass
class Session:
    """The part of one process in shared work.

    Args:
        folder: work folder.
        process: this process.
        log: log of this process.
        events: what other processes have logged since the beginning.
        failures: the items that failed.
        earlier_claims: items by the keys of the claims that were there at the beginning.
        watch: what was seen of the claims of other processes.
    """

    folder: Path
    process: Process
    log: WorkLog
    events: NewEvents
    failures: Failures
    earlier_claims: dict[str, str]
    watch: Watch = field(default_factory=Watch)
    _claimed: set[str] = field(default_factory=set)
    _read: float = 0.0
    _states: dict[str, State] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        folder: Path,
        items: Sequence[str],
        *,
        task: str,
        unit: str,
        shard: str = "",
        made_by: str = "",
    ) -> "Session":
        """Enter a process into a work folder, which is created if needed.

        Args:
            folder: work folder.
            items: all items of the command, those of other shards included.
            task: what is done, as "extracting".
            unit: what is counted, in the plural.
            shard: share of this process; empty for all items.
            made_by: what the results depend on.

        Raises:
            WorkFolderError: the folder cannot be used.
            OSError: the disk is full.
        """
        claims = folder / "claims"
        with writing(folder):
            claims.mkdir(parents=True, exist_ok=True)
            with hold(folder / "claim", wait_s=START_WAIT_S):
                merge_ended_logs(folder)
                writer = Writer.new(task, unit, _write_list(folder, items), shard)
                log = WorkLog(folder, writer)
                events, failures = NewEvents(folder, log.path), Failures(folder, made_by)
            earlier = _earlier_claims(claims, items)
            return cls(folder, this_process(), log, events, failures, earlier)

    @property
    def claims(self) -> Path:
        """Folder of the claims of items."""
        return self.folder / "claims"

    def note_claimed(self, item: str) -> None:
        """Remember that another process works on an item."""
        self._claimed.add(item)

    def note_found(self, item: str) -> None:
        """Log that an item is done, unless that is logged, and remove a claim that was left on it.

        Raises:
            OSError: the log cannot be written.
        """
        if item in self.earlier_claims.values():  # few, if any
            claim = acquire(self.claims / file_name(item), self.watch, item=item)
            if claim is not None:
                claim.release()
        if item not in self._logged:
            self._logged.add(item)
            self.log.add("found", item)

    def ended_elsewhere(self, item: str) -> bool:
        """Return whether another process is known to have done an item since the beginning."""
        if item in self._claimed:
            return True
        if time.monotonic() - self._read > READ_EVERY_S:
            self._states = dict(self.events.read())
            self._read = time.monotonic()
        return item in self._states

    @cached_property
    def _logged(self) -> set[str]:
        logs = read_logs(self.folder)
        done = ("done", "found")
        return {event.item for log in logs for event in log.events if event.state in done}


def _write_list(folder: Path, items: Sequence[str]) -> str:
    """Write the list of items unless it is there; return the name of its file."""
    content = {"format": LIST_FORMAT, "format_version": LIST_FORMAT_VERSION, "items": list(items)}
    encoded = json.dumps(content).encode() + b"\n"
    path = folder / f"{LIST_PREFIX}{sha256(encoded).hexdigest()[:12]}"
    if not path.exists():
        write_whole(path, encoded)
    return path.name


def _earlier_claims(claims: Path, items: Sequence[str]) -> dict[str, str]:
    """Return the claims that are there; remove those that killed processes left on other items."""
    sweep_parts(claims)
    remove_old_takeovers(claims)
    found = [(path, read_holder(path)) for path in claims.iterdir() if path.suffix != ".part"]
    known = set(items) if found else set()
    for path, holder in found:
        if holder is not None and holder.process.is_dead and holder.item not in known:
            claim = acquire(path, Watch())
            if claim is not None:
                claim.release()
    return {holder.key: holder.item for _, holder in found if holder is not None}


def is_at_work(out: Path) -> bool:
    """Return whether a process works on items of an output folder now, as far as is known here."""
    claims = work_folder(out) / "claims"
    holders = [read_holder(path) for path in claims.iterdir()] if claims.is_dir() else []
    return any(holder is not None and not holder.process.is_dead for holder in holders)
