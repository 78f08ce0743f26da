"""Kill commands with SIGKILL, run them again, and compare the results with an undisturbed run.

    python benchmarks/kills.py --kills 100

Half of the kills come at random moments. The other half are injected: immediately before or after
a file is written to the disk (write), gets its name (rename), or gets the exclusive name of a claim
(claim). With `workers`, and with `ray` if Ray is installed, a worker is killed rather than the
command, which has to go on by itself; with `driver`, the command is killed and its workers are not.
`train` writes to another file system than that of the temporary files, if there is one (--other, by
default /dev/shm).
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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import torch
from kill_points import POINTS, Counting, KillPoint, hook_workers

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
# first, or whether both do, decides how many bytes are read and in how many requests.
VARYING = ("seconds", "time", "bytes_read", "share_bytes", "requests")


@dataclass(frozen=True)
class Command:
    """A command to kill.

    Args:
        name: name of the subcommand.
        words: its arguments without --out.
        read: returns what has to be equal after a kill, from the output folder.
        parent: folder for its output folders.
        again: arguments to add when it is run again.
        victim: text in the command line of the process to kill; empty to kill the command.
    """

    name: str
    words: tuple[str, ...]
    read: Callable[[Path], object]
    parent: Path
    again: tuple[str, ...] = ()
    victim: str = ""

    def folder(self, name: object) -> Path:
        """Return an output folder by name."""
        return self.parent / f"{self.name.replace(' ', '-')}-{name}"

    def line(self, out: Path) -> list[str]:
        """Return the command line that writes to a folder."""
        return [self.name.split()[0], *self.words, "--out", str(out)]

    def set_up(self, plan: KillPoint | Counting) -> None:
        """Let this process, or the workers that it starts, follow a plan."""
        if self.victim:
            hook_workers(plan, self.folder("site"))
        else:
            plan.set_up()


@dataclass
class Tally:
    """What happened to the runs of one command.

    Args:
        kills: number of kills that were tried.
        hit: number of processes that a kill ended.
        injected: of these, how many it ended at a write, a rename and a claim.
        equal: number of results that were equal afterwards.
        slowest: most seconds that running the command again took.
    """

    kills: int = 0
    hit: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    equal: int = 0
    slowest: float = 0.0


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


def start(words: Sequence[str], *, prepare: Callable[[], None] | None = None) -> int:
    """Run a command in a forked process; return its id.

    Args:
        words: arguments of the command.
        prepare: called in the process before the command.
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
        if prepare is not None:
            prepare()
        sys.argv = ["parfocal", *words]
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        os._exit(code)


def finish(process: int) -> int:
    """Wait for a process; return its exit code, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def points_of(command: Command, counter: Path) -> Counter[str]:
    """Run a command undisturbed; return how often it, or its workers, write, rename and claim."""
    words = command.line(command.folder("undisturbed"))
    code = finish(start(words, prepare=lambda: command.set_up(Counting(str(counter)))))
    if code:
        raise SystemExit(f"the undisturbed run failed with code {code}: {' '.join(words)}")
    return Counter(counter.read_text().split() if counter.exists() else ())


def children(process: int, text: str) -> list[int]:
    """Return the processes below a process whose command line has a text."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = (path.parent / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # ended
            continue
        if parent == process:
            child = int(path.parent.name)
            found += [child] if text in command else []
            found += children(child, text)
    return found


def kill_at_random(command: Command, process: int, rng: random.Random, seconds: float) -> bool:
    """Kill a command, or one of its workers, at a random moment; return whether there was one."""
    time.sleep(rng.uniform(0, seconds))
    victims = children(process, command.victim) if command.victim else [process]
    if victims:
        os.kill(rng.choice(victims), signal.SIGKILL)
    return bool(victims)


def leftovers(folder: Path) -> list[Path]:
    """Return temporary files and claims in a folder."""
    paths = (*folder.rglob(".*"), *folder.rglob("claims/*"))
    return [path for path in paths if path.is_file()]


def kill_once(
    command: Command, rng: random.Random, seconds: float, points: Counter[str], number: int
) -> Tally:
    """Kill a command once, run it again, and return whether the results are as without the kill."""
    out, mark = command.folder(number), command.folder(f"{number}.killed")
    words, tally = command.line(out), Tally(kills=1)
    kind = rng.choice(sorted(points)) if number % 2 and points else ""
    if kind:
        # Of two workers, one passes at least half of all points.
        index = rng.randrange(-(-points[kind] // 2) if command.victim else points[kind])
        point = KillPoint(kind, index, early=rng.random() < 0.5, mark=str(mark))
        code = finish(start(words, prepare=lambda: command.set_up(point)))
        tally.hit = int(mark.exists())
    else:
        process = start(words)
        was_there = kill_at_random(command, process, rng, seconds)
        code = finish(process)
        tally.hit = int(was_there if command.victim else code == -signal.SIGKILL)
    tally.injected.update([kind] if kind and tally.hit else [])
    if not command.victim:
        begin = time.perf_counter()
        code = finish(start([*words, *(command.again if out.exists() else ())]))
        tally.slowest = time.perf_counter() - begin
    expected = command.read(command.folder("undisturbed"))
    tally.equal = int(code == 0 and command.read(out) == expected and not leftovers(out))
    if not tally.equal:
        print(f"  {out}: code {code}, killed at {kind or 'random'}, left {leftovers(out)}")
        print(f"  {difference(command.read(out), expected)}" if code == 0 else "")
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


def difference(found: object, expected: object, place: str = "") -> str:
    """Return where two values of JSON differ first; empty if they are equal."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted({*found, *expected}, key=str)
        parts = [(f"{place}.{key}", found.get(key), expected.get(key)) for key in keys]
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        parts = [
            (f"{place}[{index}]", *pair)
            for index, pair in enumerate(zip(found, expected, strict=True))
        ]
    else:
        return "" if found == expected else f"{place}: {found!r:.200}, expected {expected!r:.200}"
    return next((text for name, *pair in parts if (text := difference(*pair, name))), "")


def run_command(command: Command, kills: int, rng: random.Random) -> tuple[Tally, float]:
    """Kill a command many times; return what happened, and the seconds of an undisturbed run."""
    begin = time.perf_counter()
    points = points_of(command, command.folder("points"))
    seconds = time.perf_counter() - begin
    total = Tally()
    for number in range(kills):
        once = kill_once(command, rng, seconds, points, number)
        total.kills += once.kills
        total.hit += once.hit
        total.injected += once.injected
        total.equal += once.equal
        total.slowest = max(total.slowest, once.slowest)
    return total, seconds


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
        *workers_of(Command("extract", (str(cohort), *extract), read_features, place)),
    ]


def workers_of(command: Command) -> list[Command]:
    """Return a command with two workers, as processes and as actors of Ray if that is installed."""
    words = (*command.words, "--workers", "2", "--ray")
    alone = replace(command, name="extract driver", words=(*words, "off"))
    found = [alone, replace(alone, name="extract workers", victim="from multiprocessing.spawn")]
    if find_spec("ray") is not None:
        found.append(
            replace(command, name="extract ray", words=(*words, "local"), victim="ray::RayActor")
        )
    return found


COMPARE_SETTINGS = (
    *("--set", "slide.patch_size=64", "--set", "abmil:slide.magnifications=[10]"),
    *("--timed-slides", "0", "--device", "cpu"),
)


def benchmark() -> None:
    """Kill each command, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", action="append", help="name of a command to kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--other", type=Path, default=Path("/dev/shm"))
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    other = arguments.other if arguments.other.is_dir() else None
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory(dir=other) as there:
        cohort = Path(here) / "slides"
        cohort.mkdir()
        todo = commands(paint(cohort), Path(here), Path(there))
        todo = [each for each in todo if arguments.only is None or each.name in arguments.only]
        kills = -(-arguments.kills // len(todo))
        print(
            "| command | kills | hit a process | at a write, rename, claim | equal results "
            "| slowest second run, s | undisturbed, s |"
        )
        print("|---|---|---|---|---|---|---|", flush=True)
        for command in todo:
            tally, seconds = run_command(command, kills, rng)
            injected = ", ".join(str(tally.injected[kind]) for kind in POINTS.values())
            print(
                f"| {command.name} | {tally.kills} | {tally.hit} | {injected} | {tally.equal} | "
                f"{tally.slowest:.1f} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    benchmark()
