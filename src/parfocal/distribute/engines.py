"""Engines that work on the items of a command in several threads or workers."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from parfocal.distribute.claims import acquire, read_holder
from parfocal.distribute.pool import Workers, run_items
from parfocal.distribute.stopping import raise_if_stopped, stop_requested
from parfocal.distribute.watch import Watch
from parfocal.distribute.work import Ended, ReadsSlides
from parfocal.distribute.work_folder import file_name
from parfocal.distribute.worker import WorkerPlan
from parfocal.distribute.worklist import Distribution, WorkList
from parfocal.files import remove_dead_parts
from parfocal.processes import Process
from parfocal.slide.staging import current_stage
from parfocal.threads import share_threads

LOOKED_AT = 10_000  # items whose slides are looked at for folders that workers must see
MAX_FOLDERS = 32  # of slides that workers must see

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttemptRow:
    """What a worker says of an item that ended.

    Args:
        by: see `Ended`.
        reason: why the item failed; None if it did not.
        result: the result, if it is a short plain value; None to read it.
    """

    by: Literal["here", "elsewhere", "found"]
    reason: str | None
    result: bool | int | str | None = None


@dataclass(frozen=True)
class WorkerEngine:
    """Attempts items in worker processes, of this machine or of a cluster.

    Args:
        workers: starts the workers.
        threads: number of threads of each worker; None for as many as there are cores.
        in_flight: number of items that a worker processes at the same time.
        threads_are_chosen: whether a user has chosen the number of threads; if False, it is the
            share of the cores, and training on small bags uses one thread of torch.
        description: description of the workers, logged when work begins; empty to log nothing.
    """

    workers: Workers[Any]
    threads: int | None = None
    in_flight: int = 1
    threads_are_chosen: bool = True
    description: str = ""
    in_workers = True

    def attempt_all(
        self, work_list: WorkList[Result], items: Sequence[str]
    ) -> Iterator[Ended[Result]]:
        """Attempt each item once, and yield those that ended; see `Engine`."""
        if items and self.description:
            logger.info("%s", self.description)
        stage = current_stage()
        sent = replace(work_list, distribution=Distribution(work_list.distribution.shard))
        plan = WorkerPlan(
            partial(_Attempts.prepared, sent),
            shared=work_list.out,
            paths=(*work_list.paths, *one_slide_per_folder(work_list, items)),
            threads=self.threads,
            threads_are_chosen=self.threads_are_chosen,
            in_flight=self.in_flight,
            queued=0 if stage is None else 1,
            scratch=None if stage is None else stage.scratch,
        )
        release = partial(_release, work_list)
        rows = run_items(items, plan, self.workers, release=release) if items else iter(())
        ended = []
        for row in rows:
            if row.died is not None:
                ended.append(row.item)
                yield work_list.collect(row.item, row.died)
            elif isinstance(row.value, AttemptRow):
                ended.append(row.item)
                yield _collect(work_list, row.item, row.value)
        _remove_remains(work_list, ended)
        raise_if_stopped(f"{len(ended)} of {len(items)} {work_list.unit}")


@dataclass(frozen=True)
class ThreadEngine:
    """Attempts several items at a time in threads of this process.

    Args:
        in_flight: number of items at a time.
    """

    in_flight: int
    in_workers = False

    def attempt_all(
        self, work_list: WorkList[Result], items: Sequence[str]
    ) -> Iterator[Ended[Result]]:
        """Attempt each item once, and yield those that ended; see `Engine`."""
        left, ended = iter(items), 0
        running: set[Future[Ended[Result] | None]] = set()
        pool = ThreadPoolExecutor(
            self.in_flight, initializer=share_threads, initargs=(self.in_flight,)
        )
        try:
            while True:
                while len(running) < self.in_flight and not stop_requested():
                    item = next(left, None)
                    if item is None:
                        break
                    running.add(pool.submit(work_list.attempt, item))
                if not running:
                    break
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    result = future.result()
                    if result is not None:
                        ended += 1
                        yield result
        finally:
            pool.shutdown(cancel_futures=True)
        if ended < len(items):
            raise_if_stopped(f"{ended} of {len(items)} {work_list.unit}")


def one_slide_per_folder(work_list: WorkList[Any], items: Sequence[str]) -> tuple[Path, ...]:
    """Return a slide of each folder of slides, which a worker sees if it can see the others.

    A folder alone would not do: where a disk is not mounted, its folder is there and empty.
    """
    found: dict[Path, Path] = {}
    if isinstance(work_list.work, ReadsSlides):
        for item in items[:LOOKED_AT]:
            for slide in work_list.work.slide_files(item):
                if isinstance(slide, Path) and slide.parent not in found and slide.exists():
                    found[slide.parent] = slide
            if len(found) >= MAX_FOLDERS:
                break
    return tuple(found.values())


def _collect(work_list: WorkList[Result], item: str, row: AttemptRow) -> Ended[Result]:
    """Return what became of an item; its result is read unless the row has it."""
    if row.reason is None and row.result is not None:
        result: Any = row.result
        return Ended(item, result, by=row.by)
    return replace(work_list.collect(item, row.reason), by=row.by)


class _Attempts:
    """The function of a worker, which attempts items.

    Args:
        work_list: the items.
    """

    def __init__(self, work_list: WorkList[Any]) -> None:
        self._work_list = work_list

    @classmethod
    def prepared(cls, work_list: WorkList[Any]) -> "_Attempts":
        """Return the function, after loading what it needs."""
        work_list.prepare()
        return cls(work_list)

    def __call__(self, item: str) -> AttemptRow | None:
        """Attempt an item; return None if another process works on it, or to stop."""
        if stop_requested():
            return None  # it was queued
        ended = self._work_list.attempt(item)
        if ended is None:
            return None
        short = ended.result if isinstance(ended.result, bool | int | str) else None
        return AttemptRow(ended.by, ended.reason, short)

    def announce(self, item: str) -> None:
        """Copy the slides of an item ahead."""
        self._work_list.stage(item)

    def close(self) -> None:
        """End the part of this worker in the work."""
        self._work_list.end_worker()


def _remove_remains(work_list: WorkList[Any], ended: Sequence[str]) -> None:
    """Remove what killed workers of this machine left: temporary files, claims of ended items."""
    claims = work_list.folder / "claims"
    remove_dead_parts(work_list.out)
    remove_dead_parts(claims)
    names = {file_name(item) for item in ended}
    left = [path for path in claims.iterdir() if path.name in names] if claims.is_dir() else []
    for path in left:
        holder = read_holder(path)
        claim = acquire(path, Watch()) if holder is not None and holder.process.is_dead else None
        if claim is not None:
            claim.release()


def _release(work_list: WorkList[Any], item: str, process: Process) -> None:
    """Remove the claim of a worker that died, which another machine cannot know before long."""
    if process.is_dead:
        return  # known on this machine, so that whoever takes it over can count its deaths
    claim = work_list.folder / "claims" / file_name(item)
    holder = read_holder(claim)
    if holder is not None and holder.process == process:
        claim.unlink(missing_ok=True)
