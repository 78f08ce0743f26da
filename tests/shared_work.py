"""Work that writes small files, and claims of machines that do not exist."""

import errno
import json
import os
import pickle
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from parfocal.distribute.claims import Holder
from parfocal.distribute.work import Ended
from parfocal.distribute.work_folder import file_name, work_folder
from parfocal.distribute.worklist import Distribution, WorkList
from parfocal.files import write_whole
from parfocal.processes import this_process


@dataclass(frozen=True)
class Writing:
    """Work that writes a file for each item, and a line for each time that it is processed."""

    out: Path
    items: tuple[str, ...]
    pause_s: float = 0.0
    failing: tuple[str, ...] = ()

    def find(self, item: str) -> str | None:
        path = self.out / file_name(item)
        return path.read_text() if path.exists() else None

    def process(self, item: str) -> str:
        with (self.out / "calls").open("a") as calls:
            calls.write(f"{item}\n")
        time.sleep(self.pause_s)
        if item in self.failing:
            raise ValueError(f"{item} is damaged")
        write_whole(self.out / file_name(item), f"result of {item}".encode())
        return f"result of {item}"


class SentEngine:
    """Sends the work as to a worker process, and attempts the items here, the last one first."""

    in_workers = True

    def attempt_all(self, work_list: WorkList, items: Sequence[str]) -> Iterator[Ended]:
        alone = Distribution(work_list.distribution.shard)
        sent = pickle.loads(pickle.dumps(replace(work_list, distribution=alone)))
        sent.prepare()
        for item in reversed(items):
            yield work_list.collect(item, sent.attempt(item).reason)
        sent.end_worker()


def make_read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse new files in a folder, as a file system does that is mounted read-only."""
    usual = Path.touch

    def touch(path: Path, *arguments: object, **options: object) -> None:
        if path.is_relative_to(folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        usual(path, *arguments, **options)

    monkeypatch.setattr(Path, "touch", touch)


def calls(out: Path) -> Counter[str]:
    path = out / "calls"
    return Counter(path.read_text().splitlines() if path.exists() else ())


def names(count: int) -> tuple[str, ...]:
    return tuple(f"slide {number}" for number in range(count))


def run_all(work: Writing, **options: object) -> list[Ended[str]]:
    return list(WorkList(work.out, "writing", work, **options).run())


def claim_of_another_machine(tmp_path: Path, item: str, **changes: object) -> Path:
    folder = work_folder(tmp_path) / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(item)
    holder = replace(Holder.new(item), process=replace(this_process(), machine="0123456789"))
    content = {**vars(replace(holder, **changes)), "process": vars(holder.process)}
    path.write_text(json.dumps(content))
    return path
