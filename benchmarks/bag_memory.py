"""Compare the memory of a training step on a large bag with what parfocal expects.

Each model takes two steps in a process of its own, on bags of random features; the growth of the
process's peak memory per patch is compared with `parfocal.train.bag_memory.bytes_per_patch`.

    python benchmarks/bag_memory.py --models transmil,clam,abmil --patches 20000
"""

import argparse
import resource
import subprocess
import sys

import torch
from torch.nn.functional import cross_entropy

from parfocal.bag import StoredBag
from parfocal.models import MODELS
from parfocal.models.checkpoint import build_model
from parfocal.models.contract import training_loss
from parfocal.train.bag_memory import bytes_per_patch


def build(name: str, dim: int) -> torch.nn.Module:
    """Build a model of one magnification with its default settings."""
    return build_model(name, {"in_dim": dim, "num_classes": 2})


def peak(name: str, dim: int, patches: int) -> int:
    """Return the peak memory of this process after a training step, in bytes."""
    model = build(name, dim)
    features = torch.randn(patches, dim)
    prediction = model(StoredBag((features,)))
    target = torch.tensor(1)
    traits = MODELS[name].traits
    loss = training_loss(model, traits, prediction, target, cross_entropy)
    loss.backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured_per_patch(name: str, dim: int, patches: int) -> float:
    """Return what one more patch adds to the peak memory, in bytes."""
    peaks = []
    for count in (patches, 2 * patches):
        command = [sys.executable, __file__, "--peak", name, str(dim), str(count)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True).stdout))
    return (peaks[1] - peaks[0]) / patches


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="transmil,clam,abmil")
    parser.add_argument("--patches", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=1536)
    parser.add_argument("--peak", nargs=3, metavar=("MODEL", "DIM", "PATCHES"))
    options = parser.parse_args()
    if options.peak:
        name, dim, patches = options.peak
        print(peak(name, int(dim), int(patches)))
        return
    print("| model | kB per patch, expected | measured | a million patches, GB |")
    print("|---|---|---|---|")
    for name in options.models.split(","):
        expected = bytes_per_patch(build(name, options.dim), [options.dim], [])
        measured = measured_per_patch(name, options.dim, options.patches)
        print(f"| {name} | {expected / 1e3:.1f} | {measured / 1e3:.1f} | {measured / 1e3:.0f} |")


if __name__ == "__main__":
    main()
