"""Steps of the rivals at 10,000 and 100,000 patches: time, and peak memory.

    python benchmarks/rivals.py [--models abmil clam transmil] [--rows 10000 100000] [--json PATH]

Random features of 1024 dimensions in memory, 3 classes. A training step is forward, the model's own
loss and backward; an evaluation step is forward alone. `bare` is the ratio to a pass of ABMIL's
matrix products and nothing else. The median of several steps counts, the first left out; peak
memory beyond features and weights is that of one step in a fresh process.
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

IN_DIM, CLASSES = 1024, 3
NAMES = ("abmil", "clam", "transmil", "dsmil")
PHASES = ("train", "eval")


class Bare(nn.Module):
    """ABMIL's matrix products: embedding, two of attention, its scores, and the weighted sum."""

    def __init__(self) -> None:
        super().__init__()
        self.of = ABMIL(IN_DIM, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        h = F.linear(rows, self.of.embed[0].weight)
        attend = self.of.attend
        scores = F.linear(F.linear(h, attend.value.weight), attend.score.weight)
        scores = scores + F.linear(F.linear(h, attend.gate.weight), attend.score.weight)
        return self.of.classify(scores[:, 0] @ h)


def make(name: str, rows: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Bare() if name == "bare" else MODELS[name](IN_DIM, CLASSES)
    return model, torch.randn(rows, IN_DIM)


def places(step: int, rows: np.ndarray) -> np.ndarray:
    """A square slide, its patches row by row."""
    return np.stack([rows % 300, rows // 300], axis=1)


def one_step(model: nn.Module, rows: Tensor, phase: str) -> None:
    model.train(phase == "train")
    with torch.set_grad_enabled(phase == "train"):
        if isinstance(model, Bare):
            loss = F.cross_entropy(model(rows)[None], torch.tensor([1]))
        else:
            prediction = model(StoredBag([rows], cells=places))
            loss = F.cross_entropy(prediction.logits[None], torch.tensor([1]))
            if phase == "train" and hasattr(model, "objective"):
                loss = model.objective(prediction, torch.tensor(1))
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
    """A line of this process's memory, in MB."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def print_peak(name: str, rows: int, phase: str) -> None:
    """Print the MB that one step takes beyond features and weights; for a fresh process."""
    small, few = make(name, 300)
    one_step(small, few, phase)  # the libraries set themselves up
    model, features = make(name, rows)
    before = memory_field("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    one_step(model, features, phase)
    print(memory_field("VmHWM") - before)


def peak_of(name: str, rows: int, phase: str) -> float:
    call = [sys.executable, __file__, "--peak-of", name, str(rows), phase]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=NAMES, choices=[*MODELS, "bare"])
    parser.add_argument("--rows", nargs="+", type=int, default=(10_000, 100_000))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.peak_of:
        name, rows, phase = asked.peak_of
        print_peak(name, int(rows), phase)
        return
    results = []
    print(f"{'model':15}{'patches':>9}{'phase':>7}{'s':>9}{'bare':>7}{'MB':>9}")
    for rows in asked.rows:
        bare = {phase: seconds_of("bare", rows, phase, asked.repeats) for phase in PHASES}
        for name in asked.models:
            for phase in PHASES:
                seconds = seconds_of(name, rows, phase, asked.repeats)
                peak, ratio = peak_of(name, rows, phase), seconds / bare[phase]
                print(f"{name:15}{rows:9,}{phase:>7}{seconds:9.3f}{ratio:7.2f}{peak:9,.0f}")
                results.append(
                    {"model": name, "rows": rows, "phase": phase, "seconds": seconds}
                    | {"bare": bare[phase], "peak_mb": peak}
                )
    if asked.json:
        context = {"torch": torch.__version__, "threads": asked.threads, "repeats": asked.repeats}
        asked.json.write_text(json.dumps({**context, "steps": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
