"""Measure time and peak memory of one step of the baselines, at 10,000 and 100,000 patches.

    python benchmarks/baselines.py [--models abmil clam] [--rows 10000 100000] [--json PATH]

Features are random, with 1024 dimensions, in memory; there are 3 classes. A training step is
forward, loss (the model's own if it has one) and backward; an evaluation step is forward. `ratio`
is the time relative to the matrix products of ABMIL. Times are the median of several steps without
the first. Peak memory is that of one step in a new process, without features and weights.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from parfocal.bag import StoredBag
from parfocal.models import ABMIL, MODELS
from parfocal.models.contract import OwnObjective

IN_DIM, CLASSES = 1024, 3
NAMES = ("abmil", "clam", "transmil", "dsmil")
PHASES = ("train", "eval")


class MatrixProducts(nn.Module):
    """The matrix products of ABMIL: embedding, gated attention, scores and weighted sum."""

    def __init__(self) -> None:
        super().__init__()
        self.abmil = ABMIL(IN_DIM, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        h = F.linear(rows, self.abmil.embedder[0].weight)
        attention = self.abmil.attention
        scores = F.linear(F.linear(h, attention.value.weight), attention.score.weight)
        scores = scores + F.linear(F.linear(h, attention.gate.weight), attention.score.weight)
        return self.abmil.classifier(scores[:, 0] @ h)


def make(name: str, rows: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = (
        MatrixProducts()
        if name == "matmuls"
        else MODELS[name].build(in_dim=IN_DIM, num_classes=CLASSES)
    )
    return model, torch.randn(rows, IN_DIM)


def cells(step: int, rows: np.ndarray) -> np.ndarray:
    """Return (column, row) of patches that fill a square slide row by row."""
    return np.stack([rows % 300, rows // 300], axis=1)


def one_step(model: nn.Module, rows: Tensor, phase: str) -> None:
    model.train(phase == "train")
    with torch.set_grad_enabled(phase == "train"):
        if isinstance(model, MatrixProducts):
            loss = F.cross_entropy(model(rows)[None], torch.tensor([1]))
        else:
            prediction = model(StoredBag([rows], cells=cells))
            loss = F.cross_entropy(prediction.logits[None], torch.tensor([1]))
            if phase == "train" and isinstance(model, OwnObjective):
                loss = model.objective(prediction, torch.tensor(1), F.cross_entropy)
    if phase == "train":
        model.zero_grad()
        loss.backward()


def seconds_of(name: str, rows: int, phase: str, repeats: int) -> float:
    model, features = make(name, rows)
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        one_step(model, features, phase)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def memory_field(name: str) -> float:
    """Return a memory field of this process, in MB."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def print_peak(name: str, rows: int, phase: str) -> None:
    """Print the peak memory of one step in MB, without features and weights."""
    small, few = make(name, 300)
    one_step(small, few, phase)  # initializes the libraries
    model, features = make(name, rows)
    before = memory_field("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    one_step(model, features, phase)
    print(memory_field("VmHWM") - before)


def peak_of(name: str, rows: int, phase: str) -> float:
    call = [sys.executable, __file__, "--peak-of", name, str(rows), phase]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=NAMES, choices=[*MODELS, "matmuls"])
    parser.add_argument("--rows", nargs="+", type=int, default=(10_000, 100_000))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        name, rows, phase = arguments.peak_of
        print_peak(name, int(rows), phase)
        return
    results = []
    print(f"{'model':15}{'patches':>9}{'phase':>7}{'s':>9}{'ratio':>7}{'MB':>9}")
    for rows in arguments.rows:
        base = {phase: seconds_of("matmuls", rows, phase, arguments.repeats) for phase in PHASES}
        for name in arguments.models:
            for phase in PHASES:
                seconds = seconds_of(name, rows, phase, arguments.repeats)
                peak, ratio = peak_of(name, rows, phase), seconds / base[phase]
                print(f"{name:15}{rows:9,}{phase:>7}{seconds:9.3f}{ratio:7.2f}{peak:9,.0f}")
                results.append(
                    {"model": name, "rows": rows, "phase": phase, "seconds": seconds}
                    | {"matmuls": base[phase], "peak_mb": peak}
                )
    if arguments.json:
        context = {
            "torch": torch.__version__,
            "threads": arguments.threads,
            "repeats": arguments.repeats,
        }
        arguments.json.write_text(json.dumps({**context, "steps": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
