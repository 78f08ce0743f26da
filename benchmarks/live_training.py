"""How much of its slides a whole training on demand encodes, against extracting all of it first.

Trains live with a cache, with the published scores, scale-free ones and hindsight, and prints the
patches encoded by the first epoch and by the last over all that extraction would encode; in the
same units, what visits at the end would cost without a cache.

    python benchmarks/live_training.py COHORT --magnifications 2.5,10 --k 2 --work /tmp/live
"""

import argparse
import csv
import json
import time
from pathlib import Path

from parfocal.dataset import read_cohort
from parfocal.dataset.inputs import LiveBags
from parfocal.encoders.encoder import load_encoder
from parfocal.settings import load_settings
from parfocal.train import train

RECIPES = ("zoommil", "zoommil-scalefree", "zoommil-hindsight")


def encoded(run: Path) -> list[int]:
    """Give the patches encoded in each epoch."""
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
    settings = load_settings(RECIPES[0], flags=flags)
    bags = LiveBags(load_encoder(arguments.encoder), settings.slide)
    everything = coarse = 0
    for slide in cohort.slides:
        if slide.split != "test":
            with bags.open(slide) as opened:
                coarse += opened.grid.counts[0]
                everything += sum(
                    int(opened.grid.valid(step).sum()) for step in range(len(opened.grid.mpps))
                )
    print(f"train and val: {everything:,} patches at all magnifications, {coarse:,} at the lowest")
    print(f"{'recipe':20}{'first epoch':>13}{'all epochs':>12}{'s':>7}")
    results = {"everything": everything, "coarse": coarse}
    for recipe in RECIPES:
        run, start = arguments.work / recipe, time.perf_counter()
        train(
            cohort,
            load_settings(recipe, flags=flags),
            run,
            cache=arguments.work / f"{recipe}-cache",
            progress=False,
        )
        counts, seconds = encoded(run), time.perf_counter() - start
        results[recipe] = {"by_epoch": counts, "seconds": seconds}
        print(
            f"{recipe:20}{counts[0] / everything:>13.1%}{sum(counts) / everything:>12.1%}"
            f"{seconds:>7.0f}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
