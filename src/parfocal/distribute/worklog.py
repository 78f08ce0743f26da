"""What processes did with the items of shared work: each appends to a log of its own.

The first line says who writes. The others are `[seconds since 1970, state, item]`, where state is
"done", "found" (by an earlier command) or "failed". The last line of a process that ended by itself
has the state "end".
"""

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from parfocal.distribute.batch_job import this_job
from parfocal.distribute.work_folder import LIST_PREFIX, LOG_SUFFIX
from parfocal.files import write_whole
from parfocal.processes import Process, this_process

FORMAT = "parfocal work log"
FORMAT_VERSION = 1
LIST_FORMAT = "parfocal work list"
LIST_FORMAT_VERSION = 1
MAX_LOGS = 8  # of ended processes, before they become one

State = Literal["done", "found", "failed", "end"]


@dataclass(frozen=True)
class Writer:
    """The process that writes a log.

    Args:
        process: the process.
        host: name of its machine.
        job: its batch job; empty if there is none.
        since: when it began, in seconds since 1970.
        task: what it does, as "extracting".
        unit: what is counted, in the plural.
        items: name of the file that lists the items.
        shard: its share of the items, such as "3/8"; empty for all of them.
    """

    process: Process
    host: str
    job: str
    since: float
    task: str
    unit: str
    items: str
    shard: str = ""

    @classmethod
    def new(cls, task: str, unit: str, items: str, shard: str) -> "Writer":
        """Return this process as a writer."""
        process, host = this_process(), platform.node()
        return cls(process, host, this_job(), time.time(), task, unit, items, shard)

    @classmethod
    def parse(cls, line: bytes) -> "Writer | None":
        """Return the writer that the first line of a log names; None if it is damaged or newer."""
        try:
            fields = json.loads(line)
            if (fields.pop("format"), fields.pop("format_version")) != (FORMAT, FORMAT_VERSION):
                return None
            return cls(**{**fields, "process": Process(**fields["process"])})
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def encode(self) -> bytes:
        """Return the first line of the log."""
        content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(content).encode() + b"\n"


@dataclass(frozen=True)
class Event:
    """A line of a log.

    Args:
        time: when it was written, in seconds since 1970 by the clock of the writer's machine.
        state: what became of the item.
        item: the item; empty at the end.
    """

    time: float
    state: State
    item: str = ""


class WorkLog:
    """The log of this process.

    Args:
        folder: work folder; it must exist.
        writer: this process.

    Raises:
        OSError: the log cannot be written.
    """

    def __init__(self, folder: Path, writer: Writer) -> None:
        number = 0
        while True:  # a process may do several things in one folder, one after the other
            self.path = folder / f"{writer.process.token}-{number}{LOG_SUFFIX}"
            try:
                with self.path.open("xb") as file:
                    file.write(writer.encode())
                return
            except FileExistsError:
                number += 1

    def add(self, state: State, item: str = "") -> None:
        """Append a line.

        Raises:
            OSError: the log cannot be written, for example because its folder was removed.
        """
        with self.path.open("r+b", buffering=0) as file:  # no new file where the folder is gone
            file.seek(0, 2)
            file.write(_encode(Event(round(time.time(), 3), state, item)))


@dataclass(frozen=True)
class StoredLog:
    """A log as it is read.

    Args:
        path: the file.
        writer: the process that wrote it.
        events: its lines.
    """

    path: Path
    writer: Writer
    events: tuple[Event, ...]

    @property
    def has_ended(self) -> bool:
        """Whether the process is known to be at work no more."""
        ended = bool(self.events) and self.events[-1].state == "end"
        return ended or self.writer.process.is_dead


def log_files(folder: Path) -> list[Path]:
    """Return the logs in a work folder."""
    return sorted(folder.glob(f"*{LOG_SUFFIX}"))


def read_log(path: Path) -> StoredLog | None:
    """Read a log; None if it is damaged, was removed, or is of a newer version."""
    try:
        first, *lines = path.read_bytes().split(b"\n")
    except OSError:
        return None
    writer = Writer.parse(first)
    return None if writer is None else StoredLog(path, writer, tuple(parse_events(lines)))


def read_logs(folder: Path) -> list[StoredLog]:
    """Read all logs in a work folder."""
    return [log for path in log_files(folder) if (log := read_log(path)) is not None]


def read_list(path: Path) -> list[str]:
    """Return the items of a list; none if it is damaged, was removed, or is of a newer version."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    if not isinstance(content, dict) or content.get("format_version") != LIST_FORMAT_VERSION:
        return []
    return [str(item) for item in content.get("items", [])]


def merge_ended_logs(folder: Path) -> None:
    """Make one log of many, if no process is at work, and remove lists that none of them names.

    The caller holds the claim of the work folder.

    Raises:
        OSError: the log cannot be written.
    """
    if len(log_files(folder)) < MAX_LOGS:
        return
    logs = sorted(read_logs(folder), key=lambda log: log.writer.since)
    if not all(log.has_ended for log in logs):
        return
    last = logs[-1]
    ended: dict[str, Event] = {}
    for event in sorted((event for log in logs for event in log.events), key=lambda e: e.time):
        ended.pop(event.item, None)
        ended[event.item] = event
    ended.pop("", None)
    lines = [_encode(event) for event in ended.values()]
    lines.append(_encode(Event(max((last.writer.since, *(e.time for e in ended.values()))), "end")))
    write_whole(last.path, last.writer.encode() + b"".join(lines))
    for log in logs[:-1]:
        log.path.unlink(missing_ok=True)
    for path in folder.glob(f"{LIST_PREFIX}*"):
        if path.name != last.writer.items:
            path.unlink(missing_ok=True)


def _encode(event: Event) -> bytes:
    return json.dumps([event.time, event.state, event.item]).encode() + b"\n"


def parse_events(lines: Sequence[bytes]) -> Iterator[Event]:
    """Yield the events of complete lines; a line that was cut is left out."""
    try:
        rows = json.loads(b"[" + b",".join(line for line in lines if line) + b"]")
    except ValueError:
        rows = [row for line in lines if (row := _parse_line(line)) is not None]
    for row in rows:
        if isinstance(row, list) and len(row) == 3:
            yield Event(row[0], row[1], row[2])


def _parse_line(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


class NewEvents:
    """What other processes have logged since this object was made.

    Args:
        folder: work folder.
        own: log of this process, which is not read.
    """

    def __init__(self, folder: Path, own: Path) -> None:
        self._folder, self._own = folder, own
        self._offsets = {path: path.stat().st_size for path in log_files(folder)}
        self._states: dict[str, State] = {}

    def read(self) -> Mapping[str, State]:
        """Return the latest state of each item that another process has ended since."""
        for path in log_files(self._folder):
            if path == self._own:
                continue
            start = self._offsets.get(path, 0)
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    content = file.read()
            except OSError:
                continue
            whole = content[: content.rfind(b"\n") + 1]
            self._offsets[path] = start + len(whole)
            for event in parse_events(whole.split(b"\n")):
                if event.item:
                    self._states[event.item] = event.state
        return self._states
