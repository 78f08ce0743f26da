"""Kill commands with SIGKILL, run them again, and compare the results with an undisturbed run.

    python benchmarks/kills.py --kills 60

Half of the kills come at random moments, the other half within a write: after the content of a file
has been written, and before it has its name. `train` writes to another file system than that of
the temporary files, if there is one (--other, by default /dev/shm).
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch

import parfocal.audit
import parfocal.compare
import parfocal.files
import parfocal.predict
import parfocal.train  # noqa: F401 (forked commands need not import any of these again)
from parfocal.cli import main
from parfocal.slide.write import write_pyramid

SLIDES, SIDE = 8, 512
SMALL = ("--encoder", "tiny", "--magnifications", "2.5,10", "--set", "slide.patch_size=64")
# Parts of names of what differs between two undisturbed runs. Which of two threads decodes a tile
# first, or whether both do, decides how many bytes are read.
VARYING = ("seconds", "time", "bytes_read")


@dataclass(frozen=True)
class Command:
    """A command to kill.

    Args:
        name: name of the subcommand.
        words: its arguments without --out.
        read: returns what has to be equal after a kill, from the output folder.
        parent: folder for its output folders.
        again: arguments to add when it is run again.
    """

    name: str
    words: tuple[str, ...]
    read: Callable[[Path], object]
    parent: Path
    again: tuple[str, ...] = ()


@dataclass
class Tally:
    """What happened to the runs of one command."""

    kills: int = 0
    in_write: int = 0
    finished: int = 0
    equal: int = 0


def paint(folder: Path) -> Path:
    """Write slides of two classes and their cohort table."""
    rows = []
    for number in range(SLIDES):
        generator = np.random.default_rng(number)
        spots = generator.random((SIDE // 8, SIDE // 8)) < 0.3
        spot = (130, 60, 150) if number % 2 else (220, 150, 190)
        tissue = np.where(spots[..., None], spot, (200, 110, 170)).astype(np.uint8)
        pixels = tissue.repeat(8, axis=0).repeat(8, axis=1)
        pixels[:, SIDE // 2 :] = 245
        name = f"{number:03}.tif"

        def tile(column: int, row: int, pixels: np.ndarray = pixels) -> np.ndarray:
            return pixels[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256]

        write_pyramid(folder / name, tile, (SIDE, SIDE), mpp=1.0, downsamples=(1, 4))
        split = ("train", "train", "val", "test")[number // 2 % 4]
        rows.append((f"{number:03}", name, ("normal", "tumor")[number % 2], split))
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("slide_id", "path", "label", "split"), *rows])
    return folder / "cohort.csv"


def start(words: Sequence[str], *, kill_at_write: int | None = None) -> int:
    """Run a command in a forked process; return its id.

    Args:
        words: arguments of the command.
        kill_at_write: number of the write in which the process kills itself; None for no such kill.
    """
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        torch.set_num_threads(1)
        if kill_at_write is not None:
            kill_in_write(kill_at_write)
        sys.argv = ["parfocal", *words]
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        os._exit(code)


def kill_in_write(number: int) -> None:
    """Let this process kill itself in one of its writes."""
    left, fsync = [number], os.fsync

    def count_and_sync(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    os.fsync = count_and_sync


def finish(process: int) -> int:
    """Wait for a process; return its exit code, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def writes_of(words: Sequence[str], counter: Path) -> int:
    """Run a command and return how many writes it makes."""
    process = os.fork()
    if not process:
        fsync = os.fsync

        def count_and_sync(handle: int) -> None:
            with counter.open("ab") as file:
                file.write(b".")
            fsync(handle)

        os.fsync = count_and_sync
        inner = start(words)
        os._exit(min(255, max(0, finish(inner))))
    code = finish(process)
    if code:
        raise SystemExit(f"the undisturbed run failed with code {code}: {' '.join(words)}")
    return counter.stat().st_size


def leftovers(folder: Path) -> list[Path]:
    """Return temporary files and claims in a folder."""
    return [path for path in folder.rglob(".*") if path.is_file()]


def kill_once(
    command: Command, rng: random.Random, seconds: float, writes: int, number: int
) -> Tally:
    """Kill a command once, run it again, and return whether the results are as without the kill."""
    out = command.parent / f"{command.name}-{number}"
    words = [command.name, *command.words, "--out", str(out)]
    if number % 2:
        process = start(words, kill_at_write=rng.randrange(writes))
    else:
        process = start(words)
        time.sleep(rng.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
    tally = Tally(kills=1)
    tally.finished = int(finish(process) != -signal.SIGKILL)
    tally.in_write = int(any(path.suffix == ".part" for path in leftovers(out)))
    code = finish(start([*words, *(command.again if out.exists() else ())]))
    expected = command.read(command.parent / f"{command.name}-undisturbed")
    tally.equal = int(code == 0 and command.read(out) == expected and not leftovers(out))
    if not tally.equal:
        print(f"  {out}: code {code}, left {leftovers(out)}")
    else:
        shutil.rmtree(out)
    return tally


def read_features(out: Path) -> object:
    """Return the content of all feature files."""
    found = {}
    for path in sorted(out.glob("*.h5")):
        with h5py.File(path) as file:
            values = {name: str(value) for name, value in file.attrs.items()}
            file.visititems(
                lambda name, item, values=values: (
                    values.update({name: item[:].tolist()})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        found[path.name] = values
    return found


def read_run(out: Path) -> object:
    """Return the model and the metrics of a run."""
    description = json.loads((out / "checkpoint.json").read_text())
    return [
        description["weights_sha256"],
        description["training"],
        read_table(out / "metrics.csv"),
        read_table(out / "split.csv"),
        sorted(path.name for path in out.iterdir()),
    ]


def read_comparison(out: Path) -> object:
    """Return the table of a comparison."""
    return read_table(out / "results.csv")


def read_predictions(out: Path) -> object:
    """Return the table and the records of predictions."""
    records = [without_times(json.loads(path.read_text())) for path in sorted(out.glob("*.json"))]
    pictures = sorted(path.name for path in out.glob("*.png"))
    return [sorted(map(str, read_table(out / "predictions.csv"))), records, pictures]


def read_table(path: Path) -> list[object]:
    """Return the rows of a table, without times."""
    with path.open(newline="") as file:
        return [without_times(row) for row in csv.DictReader(file)]


def without_times(value: object) -> object:
    """Return a value of JSON without the entries that differ between two runs."""
    if isinstance(value, dict):
        return {
            key: without_times(each)
            for key, each in value.items()
            if not any(part in key for part in VARYING)
        }
    return [without_times(each) for each in value] if isinstance(value, list) else value


def run_command(command: Command, kills: int, rng: random.Random) -> Tally:
    """Kill a command many times."""
    undisturbed = command.parent / f"{command.name}-undisturbed"
    words = [command.name, *command.words, "--out", str(undisturbed)]
    begin = time.perf_counter()
    writes = writes_of(words, command.parent / f"{command.name}.writes")
    seconds = time.perf_counter() - begin
    total = Tally()
    for number in range(kills):
        once = kill_once(command, rng, seconds, writes, number)
        total.kills += once.kills
        total.in_write += once.in_write
        total.finished += once.finished
        total.equal += once.equal
    return total


def commands(cohort: Path, place: Path, other: Path) -> list[Command]:
    """Return the commands to kill; a run to predict with is trained first."""
    run = place / "run"
    settings = (*SMALL, "--set", "model.k=2", "--device", "cpu")
    if finish(start(["train", str(cohort), "--out", str(run), "--epochs", "1", *settings])):
        raise SystemExit("the training for `predict` failed")
    slides = tuple(str(path) for path in sorted(cohort.parent.glob("*.tif"))[:4])
    extract = ("--encoder", "tiny", "--magnifications", "2.5,10", "--patch-size", "64")
    compare = ("--models", "abmil", "--encoder", "tiny", "--epochs", "1")
    return [
        Command("extract", (str(cohort), *extract), read_features, place),
        Command("train", (str(cohort), "--epochs", "3", *settings), read_run, other, ("--resume",)),
        Command("compare", (str(cohort), *compare, *COMPARE_SETTINGS), read_comparison, place),
        Command("predict", (str(run), *slides, "--device", "cpu"), read_predictions, place),
    ]


COMPARE_SETTINGS = (
    *("--set", "slide.patch_size=64", "--set", "abmil:slide.magnifications=[10]"),
    *("--timed-slides", "0", "--device", "cpu"),
)


def benchmark() -> None:
    """Kill each command, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--only", help="name of the one command to kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--other", type=Path, default=Path("/dev/shm"))
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    other = arguments.other if arguments.other.is_dir() else None
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory(dir=other) as there:
        cohort = Path(here) / "slides"
        cohort.mkdir()
        todo = commands(paint(cohort), Path(here), Path(there))
        kills = arguments.kills // len(todo)
        print(
            "| command | kills | within a write | ended before the kill | resumed, equal results |"
        )
        print("|---|---|---|---|---|", flush=True)
        for command in todo:
            if arguments.only not in (None, command.name):
                continue
            tally = run_command(command, kills, rng)
            print(
                f"| {command.name} | {tally.kills} | {tally.in_write} | {tally.finished} | "
                f"{tally.equal} |",
                flush=True,
            )


if __name__ == "__main__":
    benchmark()
