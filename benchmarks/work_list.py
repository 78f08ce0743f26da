"""Measure what sharing work costs: claims per second, status of many slides, memory of a command.

    python benchmarks/work_list.py --items 100000

The items are simulated: each is a small file. `--out` is the folder to write to, which may be on
a network file system.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from parfocal.distribute.claims import acquire
from parfocal.distribute.status import read_status
from parfocal.distribute.watch import Watch
from parfocal.distribute.worklist import WorkList
from parfocal.distribute.worklog import WorkLog, Writer, read_logs
from parfocal.features.extract import extract_cohort

CLAIMS = 2000
# Names of what Python reports to an audit hook; asking for a status is not among it.
OPERATIONS = {
    "open": "open or create",
    "os.link": "link",
    "os.remove": "remove",
    "os.rename": "rename",
    "os.utime": "touch",
    "os.mkdir": "create a folder",
    "os.scandir": "list a folder",
    "os.listdir": "list a folder",
}
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Simulated:
    """Items whose results are empty files, spread over folders of 1,000."""

    out: Path
    count: int

    @cached_property
    def items(self) -> tuple[str, ...]:
        """Names of the items."""
        return tuple(f"slide-{number:07}" for number in range(self.count))

    def find(self, item: str) -> bool | None:
        """Return True if the item has its file."""
        return True if self._path(item).exists() else None

    def process(self, item: str) -> bool:
        """Write the file of the item."""
        self._path(item).parent.mkdir(exist_ok=True)
        self._path(item).touch()
        return True

    def _path(self, item: str) -> Path:
        return self.out / item[:-3] / item


def run(out: Path, count: int) -> int:
    """Process all items; return how many this process did."""
    return sum(
        each.by == "here" for each in WorkList(out, "simulating", Simulated(out, count)).run()
    )


def claims_per_second(folder: Path) -> float:
    """Make and release claims one after the other."""
    begin = time.perf_counter()
    for number in range(CLAIMS):
        claim = acquire(folder / f"claim-{number}", Watch())
        assert claim is not None
        claim.release()
    return CLAIMS / (time.perf_counter() - begin)


def seconds_of_status(out: Path, count: int) -> tuple[float, float]:
    """Write the state that 8 processes leave with `count` items, and time reading it (wall, CPU).

    A hundredth of the items failed, and a tenth waits.
    """
    work_list = WorkList(out, "simulating", Simulated(out, count))
    session = work_list._open()
    items = work_list.items[: count - count // 10]
    writer = Writer.new("simulating", "slides", read_logs(work_list.folder)[0].writer.items, "")
    for number in range(8):
        log = WorkLog(work_list.folder, writer)
        lines = (f'[{time.time():.3f}, "done", "{item}"]\n' for item in items[number::8])
        with log.path.open("a") as file:
            file.writelines(lines)
    for item in items[:: max(1, len(items) * 100 // count)][: count // 100]:
        session.failures.add(item, "the file is damaged")
    begin, cpu = time.perf_counter(), time.process_time()
    [status] = read_status(out)
    list(status.lines())
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    assert len(status.done) + len(status.failed) == len(items)
    assert len(status.waiting) == count // 10
    return seconds, cpu


def operations_of_an_item(out: Path) -> dict[str, float]:
    """Return how often a command asks the file system for something, for each of 100 items."""
    counted: Counter[str] = Counter()
    counting = [False]

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if counting[0] and event in OPERATIONS and str(out) in str(arguments[0]):
            counted[OPERATIONS[event]] += 1

    sys.addaudithook(count)
    work_list = WorkList(out, "simulating", Simulated(out, 101))
    work_list.attempt(work_list.items[0])  # begins the log
    counting[0] = True
    for item in work_list.items[1:]:
        work_list.attempt(item)
    counting[0] = False
    return {name: number / 100 for name, number in sorted(counted.items())}


def memory_mib() -> float:
    """Return the largest memory of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def benchmark() -> None:
    """Print a line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only-status", action="store_true")
    arguments = parser.parse_args()
    assert extract_cohort  # so that what commands load counts as memory before the work
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        place, count = Path(folder), arguments.items
        seconds, cpu = seconds_of_status(place / "state", count)
        print(f"status of {count:,} items, 1 of 100 failed: {seconds:.2f} s ({cpu:.2f} s of CPU)")
        if arguments.only_status:
            return
        print(f"claims made and released: {claims_per_second(place):,.0f} a second")
        operations = operations_of_an_item(place / "operations")
        print("for an item: " + ", ".join(f"{each:g} {name}" for name, each in operations.items()))
        before, begin, cpu = memory_mib(), time.perf_counter(), time.process_time()
        run(place / "one", count)
        seconds = time.perf_counter() - begin
        print(
            f"{count:,} items in one process: {seconds:.1f} s, {1e3 * seconds / count:.2f} ms an "
            f"item ({1e3 * (time.process_time() - cpu) / count:.2f} ms of CPU)"
        )
        print(f"memory: {before:.0f} MiB before, {memory_mib():.0f} MiB at most")
        begin = time.perf_counter()
        run(place / "one", count)
        print(f"the same command again: {time.perf_counter() - begin:.1f} s")
        begin = time.perf_counter()
        with FORK.Pool(arguments.processes) as pool:
            done = pool.starmap(run, [(place / "shared", count // 10)] * arguments.processes)
        seconds = time.perf_counter() - begin
        assert sum(done) == count // 10, done
        print(f"{count // 10:,} items in {arguments.processes} processes: {seconds:.1f} s, {done}")
        files = sum(1 for path in (place / "one" / ".work").rglob("*") if path.is_file())
        size = sum(p.stat().st_size for p in (place / "one" / ".work").rglob("*") if p.is_file())
        print(f"state of {count:,} items: {files} files, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    benchmark()
