"""Time the epochs of a training with and without denormal numbers.

Some weights get no gradient any more after a few hundred steps, and Adam's mean of their gradients
becomes so small that the CPU computes with it slowly. Training treats such numbers as 0; for the
second column, this script prevents that. The two runs are the same otherwise, one after the other.

    python benchmarks/denormals.py COHORT FEATURES --work /tmp/denormals
"""

import argparse
import csv
from pathlib import Path
from statistics import median
from unittest import mock

from parfocal.dataset import read_cohort
from parfocal.settings import load_settings
from parfocal.train import train


def seconds_of_epochs(out: Path, arguments: argparse.Namespace) -> list[float]:
    """Train a model, and return the seconds of each epoch."""
    epochs = arguments.epochs
    flags = {"train.epochs": epochs, "train.patience": epochs, "train.learning_rate": 3e-4}
    settings = load_settings(arguments.model, flags=flags, overrides=arguments.set)
    cohort = read_cohort(arguments.cohort)
    train(cohort, settings, out, features=arguments.features, progress=False)
    with (out / "metrics.csv").open(newline="") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("features", type=Path, help="folder of feature files")
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--model", default="zoommil-hindsight")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    zero = seconds_of_epochs(arguments.work / "zero", arguments)
    with mock.patch("torch.set_flush_denormal"):
        kept = seconds_of_epochs(arguments.work / "kept", arguments)
    print("| epochs | denormal numbers are 0, s per epoch | kept, s per epoch | ratio |")
    print("|---|---|---|---|")
    quarter = max(1, arguments.epochs // 4)
    for first in range(0, arguments.epochs, quarter):
        last = min(first + quarter, arguments.epochs)
        one, other = median(zero[first:last]), median(kept[first:last])
        print(f"| {first + 1} to {last} | {one:.2f} | {other:.2f} | {other / one:.2f} |")


if __name__ == "__main__":
    main()
