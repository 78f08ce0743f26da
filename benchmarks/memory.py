"""Measure the peak memory of training with each recipe, in a process of its own.

    python benchmarks/memory.py COHORT.csv --work /tmp/memory [--recipes magnet-3,jsma]

A recipe trains for one epoch with its own sizes: models that take pixels with a batch and two
validation slides, models that take features with the four largest slides and two validation slides.
JSMA uses 5x and 10x, because scans of biopsies at 10x have no 20x. The peak is the largest resident
set of the process. A process that exceeds `--kill-gb` is killed. `--set` changes the settings of
all recipes, for example `--set train.max_memory_gb=6`.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from parfocal.dataset import Cohort, read_cohort
from parfocal.settings import load_settings
from parfocal.settings.load import recipe_names

CHANGES = {"jsma": ("slide.magnifications=5,10",)}
GB = 1e9


def part_of(cohort: Cohort, recipe: str, batch_size: int) -> Cohort:
    """Return a cohort of a batch of training slides and two validation slides."""
    by_size = sorted(cohort.slides, key=lambda slide: -slide.path.stat().st_size)
    classes = sorted({slide.label for slide in by_size})
    kinds = [[slide for slide in by_size if slide.label == label] for label in classes]
    mixed = [slide for row in zip(*kinds, strict=False) for slide in row]
    mixed += [slide for slide in by_size if slide not in mixed]
    count = max(4, batch_size)
    chosen = [replace(slide, split="train") for slide in mixed[:count]]
    chosen += [replace(slide, split="val") for slide in mixed[-2:]]
    chosen += [replace(slide, split="test") for slide in mixed[count:-2]]
    return replace(cohort, slides=tuple(chosen))


def train_once(arguments: argparse.Namespace, recipe: str) -> None:
    """Train for one epoch, in the child process."""
    from parfocal.train import train  # noqa: PLC0415 (only the child needs it)

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    changes = (*CHANGES.get(recipe, ()), "train.epochs=1", *arguments.set)
    settings = load_settings(recipe, overrides=changes)
    cohort = part_of(read_cohort(arguments.cohort), recipe, settings.train.batch_size)
    cache = arguments.work / "cache" if settings.encoder is not None else None
    out = arguments.work / f"{recipe}-{os.getpid()}"
    train(cohort, settings, out, cache=cache, device=arguments.device, progress=False)


def measure(arguments: argparse.Namespace, recipe: str) -> dict[str, object]:
    """Run a recipe in a child process, and return its peak memory and the plan it logged."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", recipe]
    log, started = arguments.work / f"{recipe}.log", time.perf_counter()
    with log.open("w") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        killed = False
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.1)
            if not killed and resident_bytes(child.pid) > arguments.kill_gb * GB:
                child.kill()
                killed = True
        _, status, usage = os.wait4(child.pid, 0)
    lines = log.read_text().splitlines()
    plan = [line for line in lines if "gradient checkpointing" in line]
    failure = "killed" if killed else lines[-1] if status else ""
    return {
        "recipe": recipe,
        "peak_bytes": usage.ru_maxrss * 1024,
        "seconds": time.perf_counter() - started,
        "plan": plan[-1] if plan else "",
        "failure": failure,
    }


def resident_bytes(process: int) -> int:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", default=",".join(recipe_names()))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kill-gb", type=float, default=13.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        train_once(arguments, arguments.child)
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = []
    print("| recipe | peak, GB | s | plan |\n|---|---|---|---|", flush=True)
    for recipe in arguments.recipes.split(","):
        row = measure(arguments, recipe)
        rows.append(row)
        note = row["failure"] or row["plan"]
        print(
            f"| `{recipe}` | {row['peak_bytes'] / GB:.1f} | {row['seconds']:.0f} | {note} |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
