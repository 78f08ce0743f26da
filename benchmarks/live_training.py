"""Measure how many patches a live training encodes, against extracting all of them first.

Trains live with a cache: published scores, scale-free scores, hindsight, and hindsight that zooms
into fewer patches at first.
Prints the patches encoded in the first epoch and in all epochs, as a share of the patches that
extraction would encode.

    python benchmarks/live_training.py COHORT --magnifications 2.5,10 --k 2 --work /tmp/live
"""

import argparse
import csv
import json
import time
from pathlib import Path

from parfocal.dataset import read_cohort
from parfocal.dataset.inputs import LiveInputs
from parfocal.encoders.loading import load_encoder
from parfocal.settings import load_settings
from parfocal.train import train

VARIANTS = {
    "zoommil": ("zoommil", []),
    "zoommil-scalefree": ("zoommil-scalefree", []),
    "zoommil-hindsight": ("zoommil-hindsight", []),
    "the same, start_share: 0.3": ("zoommil-hindsight", ["model.start_share=0.3"]),
}


def encoded_patches(run: Path) -> list[int]:
    """Return the number of patches encoded in each epoch."""
    with (run / "metrics.csv").open(newline="") as file:
        return [int(row["patches_encoded"]) for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--magnifications", default="1.25,2.5,10")
    parser.add_argument("--k", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cohort = read_cohort(arguments.cohort)
    flags = {
        "slide.magnifications": arguments.magnifications,
        "model.k": arguments.k,
        "encoder.name": arguments.encoder,
        "train.epochs": arguments.epochs,
        "train.patience": arguments.epochs,
    }
    settings = load_settings("zoommil", flags=flags)
    inputs = LiveInputs(settings.slide, load_encoder(arguments.encoder))
    total = lowest = 0
    for slide in cohort.slides:
        if slide.split != "test":
            with inputs.open(slide) as slide_input:
                grid = slide_input.grid
                lowest += grid.counts[0]
                total += sum(int(grid.valid(step).sum()) for step in range(len(grid.mpps)))
    print(f"train and val: {total:,} patches at all magnifications, {lowest:,} at the lowest")
    print(f"{'model':28}{'first epoch':>13}{'all epochs':>12}{'s':>7}")
    results = {"patches": total, "lowest": lowest}
    for number, (name, (recipe, overrides)) in enumerate(VARIANTS.items()):
        run, start = arguments.work / f"run-{number}", time.perf_counter()
        train(
            cohort,
            load_settings(recipe, flags=flags, overrides=overrides),
            run,
            cache=arguments.work / f"cache-{number}",
            progress=False,
        )
        counts, seconds = encoded_patches(run), time.perf_counter() - start
        results[name] = {"by_epoch": counts, "seconds": seconds}
        print(
            f"{name:28}{counts[0] / total:>13.1%}{sum(counts) / total:>12.1%}{seconds:>7.0f}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
