"""Measure one step of ZoomMIL, against a plain dense version of the published algorithm.

    python benchmarks/zoom_step.py [--rows 2048 --k 64] [--repeats 5] [--json PATH]

Random features of three magnifications are in memory, with 4 and then 16 children per patch and
n = 100 noise samples. A training step is forward, cross-entropy and backward; an evaluation step is
forward alone. The two methods have the same weights and take turns, and the median is printed. Peak
memory is that of one step in a new process, without inputs and weights. Without --rows and --k two
cases run: a large one, for which the dense method takes about 7.5 GB and a minute, and a small one.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parfocal.bag import StoredBag
from parfocal.models import ZoomMIL

CHILDREN = (4, 16)
DIM, CLASSES, DRAWS, SIGMA = 1024, 3, 100, 2e-3
METHODS = ("parfocal", "dense")
PHASES = ("train", "eval")


class DenseTopK(torch.autograd.Function):
    """Perturbed top-K with all one-hot matrices and noise in memory, and a diagonal gradient."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        noise = torch.randn(DRAWS, len(scores))  # s n
        chosen = (scores + SIGMA * noise).topk(k, sorted=False).indices.sort().values  # s k
        ctx.one_hots = torch.nn.functional.one_hot(chosen, len(scores)).float()  # s k n
        ctx.noise = noise
        return ctx.one_hots.mean(dim=0)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        jacobian = torch.einsum("skn,sn->kn", ctx.one_hots, ctx.noise) / DRAWS / SIGMA
        return (upstream * jacobian).sum(dim=0), None


def dense_select(scores: Tensor, k: int, *, training: bool) -> Tensor:
    if training:
        return DenseTopK.apply(scores, k)
    chosen = scores.topk(k, sorted=False).indices.sort().values
    return torch.nn.functional.one_hot(chosen, len(scores)).float()


def expand(select: Tensor, table: Tensor, rows: int) -> Tensor:
    """Select the children of patches with a Kronecker product; `rows` is the number of patches."""
    return torch.kron(select, torch.eye(len(table) // rows)) @ table


def dense_logits(model: ZoomMIL, levels: list[Tensor], k: int) -> Tensor:
    """Run the published algorithm: apply each selection to all higher magnifications at once."""
    levels, slide = list(levels), torch.zeros(())
    for step in range(len(levels)):
        h = model.embedders[step](levels[step])
        slide = slide + model.attention[step](h).softmax(dim=0) @ h
        if step + 1 < len(levels):
            scores = model.zoom_attention[step](h).softmax(dim=0)
            select = dense_select(scores, min(k, len(scores)), training=model.training)
            rows = len(levels[step])
            for below in range(step + 1, len(levels)):
                levels[below] = expand(select, levels[below], rows)
    return model.classifier(slide)


def make_case(rows: int, k: int) -> tuple[ZoomMIL, list[Tensor]]:
    torch.manual_seed(0)
    model = ZoomMIL(DIM, CLASSES, k=k, sigma=SIGMA, num_samples=DRAWS)
    counts = (rows, rows * CHILDREN[0], rows * CHILDREN[0] * CHILDREN[1])
    return model, [torch.randn(count, DIM) for count in counts]


def run_step(method: str, phase: str, model: ZoomMIL, levels: list[Tensor], k: int) -> Tensor:
    """Run one step, and return the logits."""
    model.train(phase == "train")
    with torch.set_grad_enabled(phase == "train"):
        if method == "parfocal":
            logits = model(StoredBag(levels)).logits
        else:
            logits = dense_logits(model, levels, k)
    if phase == "train":
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.tensor(1)).backward()
    return logits.detach()


def time_methods(case: tuple[int, int], phase: str, repeats: int) -> dict[str, float]:
    """Return the median seconds of each method; they take turns, and the first turn is dropped."""
    model, levels = make_case(*case)
    taken: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(repeats + 1):
        for method in METHODS:
            start = time.perf_counter()
            run_step(method, phase, model, levels, case[1])
            taken[method].append(time.perf_counter() - start)
    return {method: statistics.median(times[1:]) for method, times in taken.items()}


def memory_field(name: str) -> float:
    """Return a field of this process's memory status, in MB."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def print_peak(method: str, phase: str, case: tuple[int, int]) -> None:
    """Print the peak memory of one step without inputs and weights, in MB; for a new process."""
    run_step(method, phase, *make_case(8, 2), 2)  # initializes the libraries
    model, levels = make_case(*case)
    before = memory_field("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    run_step(method, phase, model, levels, case[1])
    print(memory_field("VmHWM") - before)


def peak_of(method: str, phase: str, case: tuple[int, int]) -> float:
    call = [sys.executable, __file__, "--rows", str(case[0]), "--k", str(case[1])]
    call += ["--peak-of", method, phase]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def largest_difference(case: tuple[int, int]) -> float:
    """Return the largest difference of the evaluation logits between the methods."""
    model, levels = make_case(*case)
    ours, dense = (run_step(method, "eval", model, levels, case[1]) for method in METHODS)
    return float((ours - dense).abs().max())


def measure(case: tuple[int, int], repeats: int) -> dict[str, Any]:
    rows, k = case
    result: dict[str, Any] = {"rows": rows, "k": k, "difference": largest_difference(case)}
    print(f"N1={rows} K={k}: evaluation logits differ by {result['difference']:.1e}")
    print(f"{'':6}{'parfocal':>12}{'dense':>12}{'ratio':>9}{'parfocal':>13}{'dense':>12}")
    for phase in PHASES:
        taken = time_methods(case, phase, repeats)
        peaks = {method: peak_of(method, phase, case) for method in METHODS}
        ratio = taken["dense"] / taken["parfocal"]
        result[phase] = {"seconds": taken, "ratio": ratio, "peak_mb": peaks}
        times = "".join(f"{1e3 * taken[method]:9.1f} ms" for method in METHODS)
        memory = "".join(f"{peaks[method]:9.0f} MB" for method in METHODS)
        print(f"{phase:6}{times}{ratio:8.1f}x {memory}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, help="number of patches at the lowest magnification")
    parser.add_argument("--k", type=int, default=12, help="number of patches to zoom into")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cases = [(2048, 64), (128, 12)] if arguments.rows is None else [(arguments.rows, arguments.k)]
    if arguments.peak_of:
        print_peak(*arguments.peak_of, cases[0])
        return
    results = [measure(case, arguments.repeats) for case in cases]
    if arguments.json:
        context = {
            "torch": torch.__version__,
            "threads": arguments.threads,
            "repeats": arguments.repeats,
        }
        arguments.json.write_text(json.dumps({**context, "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
