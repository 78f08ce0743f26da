"""The items of a command, shared by all processes that run it on the same output folder.

Each item is claimed before it is processed, so that each is processed once, and a command ends when
all items are ended by anybody. The work folder is all that the processes share; they may run on one
machine or on many, and may start and end at any time.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Generic, TypeVar

from parfocal.distribute.claims import Claim, acquire
from parfocal.distribute.distribution import EVERYTHING_HERE, Distribution, OneByOne
from parfocal.distribute.session import Session
from parfocal.distribute.shards import ShardEndedError, shard_from_environment
from parfocal.distribute.stopping import raise_if_stopped
from parfocal.distribute.work import Closed, Ended, ExpectsNext, Prepared, ReadsSlides, Work
from parfocal.distribute.work_folder import (
    WorkFolderError,
    file_name,
    refresh,
    work_folder,
    writing,
)
from parfocal.files import read_only_reason
from parfocal.processes import this_process
from parfocal.progress import Progress
from parfocal.slide.failure import catch_failure
from parfocal.slide.sources.url import SlidePath
from parfocal.slide.staging import current_stage, in_place

__all__ = ["EVERYTHING_HERE", "Distribution", "LostItemError", "WorkList"]

MAX_DEATHS = 3  # processes that may end while they process an item
POLL_S = 0.05, 1.0  # first and longest pause between two looks at items of other processes

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class LostItemError(Exception):
    """An item whose processes ended one after the other."""


@dataclass(frozen=True)
class WorkList(Generic[Result]):
    """The items of a command, which other processes may work on at the same time.

    Threads may share it. It can be sent to other processes, where it claims for these.

    Args:
        out: folder, or .jsonl file, that the command writes to.
        task: what is done, as "extracting".
        work: what is done with an item.
        unit: what is counted, in the plural.
        distribution: how the items are divided.
        again: whether to process items again that an earlier command has finished.
        new_note: what the log line of a processed item says.
        found_note: what the log line of an item says whose result was there.
        paths: files and folders that every worker must see, besides `out`.
        made_by: what the results depend on, such as a hash of the model; a failure with something
            else is none.
        ready: returns whether an item can be processed now, or waits for others; None if all can.
        stop_at_failure: whether the first item that fails ends the command with its error.
        quiet: whether to log no progress.
    """

    out: Path
    task: str
    work: Work[Result]
    unit: str = "slides"
    distribution: Distribution = EVERYTHING_HERE
    again: bool = False
    new_note: str = ""
    found_note: str = "done already"
    paths: tuple[Path, ...] = ()
    made_by: str = ""
    ready: Callable[[str], bool] | None = None
    stop_at_failure: bool = False
    quiet: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def __getstate__(self) -> dict[str, object]:
        """Leave out what belongs to this process."""
        left_out = ("_lock", "_session")
        return {key: value for key, value in self.__dict__.items() if key not in left_out}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Restore the work list in another process."""
        self.__dict__.update(state, _lock=threading.RLock())

    @property
    def folder(self) -> Path:
        """The work folder."""
        return work_folder(self.out)

    @cached_property
    def items(self) -> tuple[str, ...]:
        """The items of this command in order: those of its shard, or all."""
        shard = self.distribution.shard
        return tuple(self.work.items) if shard is None else shard.select(self.work.items)

    def run(self) -> Iterator[Ended[Result]]:
        """Process all items, and yield each as it ends; wait for those of other processes.

        Raises:
            WorkFolderError: the work folder cannot be used, and not all items are done.
            StoppedEarly: the command was asked to stop.
            Exception: the disk is full, or no other item could succeed either.
        """
        reason = None if self.again else read_only_reason(self.folder.parent)
        if reason is not None:
            yield from self._finished(reason)
            return
        total = 1 if self.quiet else len(self.items)
        progress = Progress(self.task, total, unit=self.unit)
        engine = self.distribution.engine or OneByOne()
        left = dict.fromkeys(self._order())
        try:
            for ended in engine.attempt_all(self, tuple(left)):
                del left[ended.item]
                self._report(progress, ended)
                yield ended
            yield from self._wait(left, progress)
        finally:
            self.close()

    def _finished(self, reason: str) -> list[Ended[Result]]:
        """Return the results of a folder that cannot be written to, if all of them are there."""
        found: list[Ended[Result]] = []
        for item in self.items:
            with catch_failure(item) as attempt:
                result = self._find(item)
                if attempt.reason is None and result is not None:
                    found.append(Ended(item, result, by="found"))
        left = len(self.items) - len(found)
        if left:
            raise WorkFolderError(
                f"{self.out}: {left} of {len(self.items)} {self.unit} are left to do, and the "
                f"folder cannot be written to ({reason}). Make it writable for this user, or "
                "choose another --out."
            )
        logger.info("%s: all %d %s are done already", self.out, len(found), self.unit)
        return found

    def attempt(self, item: str) -> Ended[Result] | None:
        """Process an item unless it has ended; return None if another process works on it.

        Raises:
            WorkFolderError: the work folder cannot be used.
            Exception: the disk is full, or no other item could succeed either.
        """
        ended = self._look(item)
        if ended is not None:
            return ended
        if self.ready is not None and not self.ready(item):
            return None
        session = self._open()
        path = session.claims / file_name(item)
        with writing(self.folder):
            claim = acquire(path, session.watch, item=item)
            if claim is None:
                session.note_claimed(item)
                return None
        try:
            with writing(self.folder):
                refresh(self.out if self.out.is_dir() else self.out.parent)
            return self._look(item) or self._process(item, claim)
        finally:
            claim.release()

    def collect(self, item: str, reason: str | None) -> Ended[Result]:
        """Return what became of an item that a worker of this command has ended.

        Args:
            item: the item.
            reason: why it failed; None if it did not, and its result is read.
        """
        if reason is not None:
            return Ended(item, None, reason)
        with catch_failure(item) as attempt:
            result = self._find(item)
            if result is not None:
                return Ended(item, result)
        return Ended(item, None, attempt.reason or "its result was removed; run the command again")

    def prepare(self) -> None:
        """Load what the items need, if the work has to."""
        if isinstance(self.work, Prepared):
            self.work.prepare()

    def expect(self, later: Sequence[str] | None) -> None:
        """Let the work begin with the first of some items that is free, as the next one.

        Args:
            later: items after the one that is processed now; None to end what has begun.
        """
        if not isinstance(self.work, ExpectsNext):
            return
        if later is not None:
            self.work.expect(partial(self._first_free, later))
        elif isinstance(self.work, Closed):
            self.work.close()

    def _first_free(self, items: Sequence[str]) -> str | None:
        """Return the first item that no process has claimed."""
        claims = self.folder / "claims"
        return next((each for each in items if not (claims / file_name(each)).exists()), None)

    def stage(self, item: str) -> None:
        """Start copying the slides of an item that will be processed soon; see `Stage`."""
        stage = current_stage()
        if stage is not None and isinstance(self.work, ReadsSlides):
            stage.ahead(partial(self._slides_to_copy, self.work, item))

    def _slides_to_copy(self, work: ReadsSlides, item: str) -> Sequence[SlidePath]:
        """Return the slides of an item; none if it has ended."""
        return () if self._find(item) is not None else work.slide_files(item)

    def _find(self, item: str) -> Result | None:
        """Return the result of an item; for that, no slide is copied."""
        with in_place():
            return self.work.find(item)

    def end_worker(self) -> None:
        """End the part of a worker process in the work."""
        if isinstance(self.work, Closed):
            self.work.close()
        self.close()

    def rest(self) -> list[Ended[Result]]:
        """Return what became of the items outside the shard of this command.

        Raises:
            ShardEndedError: some of them have not ended.
        """
        shard = self.distribution.shard
        if shard is None:
            return []
        own, found = set(self.items), []
        for item in self.work.items:
            if item not in own and (ended := self._outcome(item)) is not None:
                found.append(ended)
        total = len(self.work.items)
        if len(own) + len(found) < total:
            raise ShardEndedError(
                f"shard {shard} has ended: {len(own) + len(found)} of {total} {self.unit} are done "
                "or failed. The shard that ends last writes the results of all."
            )
        return found

    def close(self) -> None:
        """Say in the log that this process works on no more items."""
        with self._lock, suppress(OSError):
            session = self.__dict__.pop("_session", None)
            if session is not None and session.process == this_process():
                session.log.add("end")

    def _order(self) -> tuple[str, ...]:
        """Return the items in the order in which this process attempts them."""
        shard = None if self.distribution.shard is not None else shard_from_environment()
        return self.items if shard is None else shard.own_first(self.items)

    def _wait(self, left: dict[str, None], progress: Progress) -> Iterator[Ended[Result]]:
        """Wait for the items of other processes, and take over those that are abandoned."""
        pause_s, longest_s = POLL_S
        if left:
            logger.info("waiting for %d %s that other processes work on", len(left), self.unit)
        while left:
            raise_if_stopped(f"{len(self.items) - len(left)} of {len(self.items)} {self.unit}")
            ended_now = [ended for item in left if (ended := self.attempt(item)) is not None]
            for ended in ended_now:
                del left[ended.item]
                self._report(progress, ended)
                yield ended
            if not ended_now:
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, longest_s)

    def _report(self, progress: Progress, ended: Ended[Result]) -> None:
        if ended.reason is not None:
            progress.fail(ended.item)
            return
        notes = {"found": self.found_note, "elsewhere": "done by another process"}
        note = notes.get(ended.by, self.new_note)
        progress.advance(ended.item, note=note, skipped=ended.by == "found")

    def _look(self, item: str) -> Ended[Result] | None:
        """Return what became of an item; None if it has to be processed."""
        session = self._open()
        reason = session.failures.find(item)
        if reason is not None:
            return Ended(item, None, reason, "elsewhere")
        is_new = self.again and session.events.read().get(item) in ("done", "found")
        if self.again and not is_new:
            return None
        with catch_failure(item) as attempt:
            result = self._find(item)
        if attempt.reason is not None:
            return self._fail(item, attempt.reason)
        if result is None:
            return None
        with writing(self.folder):
            session.note_found(item)
        elsewhere = is_new or session.ended_elsewhere(item)
        return Ended(item, result, by="elsewhere" if elsewhere else "found")

    def _process(self, item: str, claim: Claim) -> Ended[Result]:
        session = self._open()
        deaths = claim.holder.deaths
        if claim.taken_from is not None and claim.taken_from.key in session.earlier_claims:
            deaths = 0
        self.prepare()
        with catch_failure(item) as attempt:
            if deaths >= MAX_DEATHS:
                raise LostItemError(
                    f"{deaths} processes ended while they worked on it, the last of them "
                    f"{claim.taken_from}. It may need more memory than is available."
                )
            result = self.work.process(item)
        stage = current_stage()
        if stage is not None and isinstance(self.work, ReadsSlides):
            stage.discard(self.work.slide_files(item))
        if attempt.reason is not None:
            ended = self._fail(item, attempt.reason)
            if self.stop_at_failure and attempt.error is not None:
                raise attempt.error
            return ended
        with writing(self.folder):
            session.failures.remove(item)
            session.log.add("done", item)
        return Ended(item, result)

    def _fail(self, item: str, reason: str) -> Ended[Result]:
        session = self._open()
        with writing(self.folder):
            session.failures.add(item, reason)
            session.log.add("failed", item)
        return Ended(item, None, reason)

    def _outcome(self, item: str) -> Ended[Result] | None:
        """Return what became of an item of another shard; None if it has not ended."""
        with catch_failure(item) as attempt:
            result = self._find(item)
            if result is not None:
                return Ended(item, result, by="elsewhere")
        reason = attempt.reason or self._open().failures.find(item, earlier=True)
        return None if reason is None else Ended(item, None, reason, "elsewhere")

    def _open(self) -> Session:
        """Return the part of this process in the work, which begins at the first call."""
        with self._lock:
            session = self.__dict__.get("_session")
            if session is None or session.process != this_process():  # not after a fork
                shard = "" if self.distribution.shard is None else str(self.distribution.shard)
                session = Session.begin(
                    self.folder,
                    self.work.items,
                    task=self.task,
                    unit=self.unit,
                    shard=shard,
                    made_by=self.made_by,
                )
                self.__dict__["_session"] = session
            assert isinstance(session, Session)
            return session
