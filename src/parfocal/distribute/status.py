"""How far the work in an output folder has come, read from the folder alone."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from parfocal.distribute.claims import EXPIRY_S, Holder, read_holder
from parfocal.distribute.failures import FailedItem, read_failures
from parfocal.distribute.work_folder import work_folder
from parfocal.distribute.worklog import StoredLog, read_list, read_logs

NESTED = ("*/.work", "*/*/.work", "*/*/*/.work")  # in the folder of a comparison


class StatusError(Exception):
    """A folder in which no work is recorded; the message says what to give."""


@dataclass(frozen=True)
class RunningItem:
    """An item that a process works on.

    Args:
        item: the item.
        process: id of the process.
        host: name of its machine.
        job: its batch job; empty if there is none.
        since: when it began, in seconds since 1970.
        quiet_s: seconds since it last showed that it is alive, by the clock of this machine.
    """

    item: str
    process: int
    host: str
    job: str
    since: float
    quiet_s: float


@dataclass(frozen=True)
class WorkStatus:
    """How far the work in a folder has come.

    Args:
        out: the output folder.
        task: what is done, as "extracting".
        unit: what is counted, in the plural.
        total: number of items.
        done: items with a result.
        running: items that processes work on.
        failed: items that failed.
        waiting: items that nobody works on yet.
        processes: number of processes that have not ended.
        per_minute: items done per minute by these processes; None if none is done yet.
    """

    out: Path
    task: str
    unit: str
    total: int
    done: tuple[str, ...]
    running: tuple[RunningItem, ...]
    failed: tuple[FailedItem, ...]
    waiting: tuple[str, ...]
    processes: int
    per_minute: float | None

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until the end; None if nothing is known."""
        left = len(self.waiting) + len(self.running)
        return 60 * left / self.per_minute if self.per_minute and left else None

    def to_json(self) -> dict[str, object]:
        """Return all of it as values of JSON."""
        content = {**asdict(self), "out": str(self.out), "seconds_left": self.seconds_left}
        return {**content, "done": list(self.done), "waiting": list(self.waiting)}

    def lines(self, *, every: bool = False) -> Iterator[str]:
        """Yield the status as lines of text.

        Args:
            every: whether to list the items that are done or wait, too.
        """
        yield (
            f"{self.out}: {self.task}: {len(self.done):,} of {self.total:,} {self.unit} done, "
            f"{len(self.running):,} running, {len(self.waiting):,} waiting, "
            f"{len(self.failed):,} failed"
        )
        if self.processes and self.per_minute is not None:
            left = self.seconds_left
            ending = "" if left is None else f", about {_duration(left)} left"
            yield f"{self.per_minute:.3g} {self.unit}/min by {self.processes} processes{ending}"
        for each in self.running:
            job = f" ({each.job})" if each.job else ""
            ago = _duration(max(0.0, time.time() - each.since))
            quiet = ""
            if each.quiet_s > EXPIRY_S:
                quiet = f", no sign of life for {_duration(each.quiet_s)}"
            yield f"running  {each.item}: process {each.process} on {each.host}{job}, {ago}{quiet}"
        for failed in self.failed:
            yield f"failed   {failed.item}: {failed.reason} ({failed.by})"
        if every:
            yield from (f"waiting  {item}" for item in self.waiting)
            yield from (f"done     {item}" for item in self.done)


def read_status(out: Path) -> list[WorkStatus]:
    """Return how far the work in an output folder has come.

    Args:
        out: output folder, or .jsonl file, of a command. For the folder of a comparison that has
            not begun to train, the folders below it count.

    Raises:
        StatusError: no work is recorded there.
    """
    folder = work_folder(out)
    folders = [folder] if folder.is_dir() else []
    if not folders and out.is_dir():
        folders = [each for pattern in NESTED for each in sorted(out.glob(pattern))]
    found = [status for each in folders if (status := _status(each, out)) is not None]
    if not found:
        raise StatusError(
            f"{out}: no work is recorded here. Give the --out of extract, predict, evaluate, "
            "inspect, audit, compare or train --folds."
        )
    return found


def _status(folder: Path, out: Path) -> WorkStatus | None:
    logs = sorted(read_logs(folder), key=lambda log: log.writer.since)
    if not logs:
        return None
    at_work = [log for log in logs if not log.has_ended]
    named = dict.fromkeys(log.writer.items for log in at_work or logs[-1:])
    items = dict.fromkeys(item for name in named for item in read_list(folder / name))
    done_at: dict[str, float] = {}
    for event in (event for log in logs for event in log.events):
        if event.item and event.state != "failed":
            done_at[event.item] = max(event.time, done_at.get(event.item, 0.0))
    failed = {each.item: each for each in read_failures(folder) if each.item in items}
    failed = {item: each for item, each in failed.items() if done_at.get(item, 0.0) <= each.time}
    running = {
        each.item: each
        for each in _running(folder)
        # The claim of a process that died after it had finished the item means nothing.
        if each.item in items and not (each.item in done_at and each.quiet_s > EXPIRY_S)
    }
    done = tuple(item for item in items if item in done_at and item not in failed)
    over = {*done, *failed, *running}
    return WorkStatus(
        out if folder == work_folder(out) else folder.parent,
        logs[-1].writer.task,
        logs[-1].writer.unit,
        len(items),
        tuple(item for item in done if item not in running),
        tuple(running.values()),
        tuple(each for item, each in failed.items() if item not in running),
        tuple(item for item in items if item not in over),
        len(at_work),
        _per_minute(at_work),
    )


def _running(folder: Path) -> Iterator[RunningItem]:
    """Yield the items that are claimed by processes that are not known to have ended."""
    claims = folder / "claims"
    for path in sorted(claims.iterdir()) if claims.is_dir() else []:
        holder = read_holder(path)
        if holder is None or not holder.item or holder.process.is_dead:
            continue
        yield _running_item(path, holder)


def _running_item(path: Path, holder: Holder) -> RunningItem:
    try:
        touched = path.stat().st_mtime
    except OSError:  # ended just now
        touched = time.time()
    quiet_s = max(0.0, time.time() - touched)
    pid = holder.process.pid
    return RunningItem(holder.item, pid, holder.host, holder.job, holder.since, quiet_s)


def _per_minute(logs: list[StoredLog]) -> float | None:
    """Return the items done per minute; each process is measured by its own clock."""
    rates = []
    for log in logs:
        times = [event.time for event in log.events if event.state == "done"]
        if times and times[-1] > log.writer.since:
            rates.append(60 * len(times) / (times[-1] - log.writer.since))
    return sum(rates) if rates else None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def to_json(statuses: list[WorkStatus]) -> str:
    """Return the text of a JSON list."""
    return json.dumps([status.to_json() for status in statuses], indent=1)
