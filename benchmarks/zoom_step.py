"""One step of ZoomMIL, ours against a plain dense version of the published algorithm.

    python benchmarks/zoom_step.py [--rows 2048 --k 64] [--repeats 5] [--json PATH]

Three levels of random features in memory, 4 and then 16 children a patch, n = 100 draws. A
training step is forward, cross-entropy and backward; an evaluation step is forward alone. The two
sides have the same weights and take turns; the median counts. Peak memory beyond inputs and
weights is that of one step in a fresh process. Without --rows and --k both cases run, a large one
(the dense side takes about 7.5 GB and a minute) and a small one.
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
SIDES = ("parfocal", "dense")
PHASES = ("train", "eval")


class DenseTopK(torch.autograd.Function):
    """Perturbed top-K with every one-hot and all noise in memory, and the diagonal gradient."""

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
    """Select the children of patches, of which there are `rows`, by a Kronecker matrix."""
    return torch.kron(select, torch.eye(len(table) // rows)) @ table


def dense_logits(model: ZoomMIL, levels: list[Tensor], k: int) -> Tensor:
    """The published algorithm: each selection at once applied to all sharper levels."""
    levels, slide = list(levels), torch.zeros(())
    for step in range(len(levels)):
        h = model.embeds[step](levels[step])
        slide = slide + model.attends[step](h).softmax(dim=0) @ h
        if step + 1 < len(levels):
            scores = model.zoom_attention[step](h).softmax(dim=0)
            select = dense_select(scores, min(k, len(scores)), training=model.training)
            rows = len(levels[step])
            for below in range(step + 1, len(levels)):
                levels[below] = expand(select, levels[below], rows)
    return model.classify(slide)


def make_case(rows: int, k: int) -> tuple[ZoomMIL, list[Tensor]]:
    torch.manual_seed(0)
    model = ZoomMIL(DIM, CLASSES, k=k, sigma=SIGMA, num_samples=DRAWS)
    counts = (rows, rows * CHILDREN[0], rows * CHILDREN[0] * CHILDREN[1])
    return model, [torch.randn(count, DIM) for count in counts]


def step_of(side: str, phase: str, model: ZoomMIL, levels: list[Tensor], k: int) -> Tensor:
    """One step; the logits."""
    model.train(phase == "train")
    with torch.set_grad_enabled(phase == "train"):
        if side == "parfocal":
            logits = model(StoredBag(levels)).logits
        else:
            logits = dense_logits(model, levels, k)
    if phase == "train":
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.tensor(1)).backward()
    return logits.detach()


def time_sides(case: tuple[int, int], phase: str, repeats: int) -> dict[str, float]:
    """Median seconds a side, the sides taking turns; the first turn warms up."""
    model, levels = make_case(*case)
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(repeats + 1):
        for side in SIDES:
            start = time.perf_counter()
            step_of(side, phase, model, levels, case[1])
            taken[side].append(time.perf_counter() - start)
    return {side: statistics.median(times[1:]) for side, times in taken.items()}


def memory_field(name: str) -> float:
    """A line of this process's memory, in MB."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def print_peak(side: str, phase: str, case: tuple[int, int]) -> None:
    """Print the MB that one step takes beyond inputs and weights; for a fresh process."""
    step_of(side, phase, *make_case(8, 2), 2)  # the libraries set themselves up
    model, levels = make_case(*case)
    before = memory_field("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts from here
    step_of(side, phase, model, levels, case[1])
    print(memory_field("VmHWM") - before)


def peak_of(side: str, phase: str, case: tuple[int, int]) -> float:
    call = [sys.executable, __file__, "--rows", str(case[0]), "--k", str(case[1])]
    call += ["--peak-of", side, phase]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def largest_difference(case: tuple[int, int]) -> float:
    """Of evaluation logits, between the sides."""
    model, levels = make_case(*case)
    ours, dense = (step_of(side, "eval", model, levels, case[1]) for side in SIDES)
    return float((ours - dense).abs().max())


def measure(case: tuple[int, int], repeats: int) -> dict[str, Any]:
    rows, k = case
    result: dict[str, Any] = {"rows": rows, "k": k, "difference": largest_difference(case)}
    print(f"N1={rows} K={k}: evaluation logits differ by {result['difference']:.1e}")
    print(f"{'':6}{'parfocal':>12}{'dense':>12}{'ratio':>9}{'parfocal':>13}{'dense':>12}")
    for phase in PHASES:
        taken = time_sides(case, phase, repeats)
        peaks = {side: peak_of(side, phase, case) for side in SIDES}
        ratio = taken["dense"] / taken["parfocal"]
        result[phase] = {"seconds": taken, "ratio": ratio, "peak_mb": peaks}
        times = "".join(f"{1e3 * taken[side]:9.1f} ms" for side in SIDES)
        memory = "".join(f"{peaks[side]:9.0f} MB" for side in SIDES)
        print(f"{phase:6}{times}{ratio:8.1f}x {memory}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, help="patches at the lowest magnification")
    parser.add_argument("--k", type=int, default=12, help="patches zoomed into")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cases = [(2048, 64), (128, 12)] if asked.rows is None else [(asked.rows, asked.k)]
    if asked.peak_of:
        print_peak(*asked.peak_of, cases[0])
        return
    results = [measure(case, asked.repeats) for case in cases]
    if asked.json:
        context = {"torch": torch.__version__, "threads": asked.threads, "repeats": asked.repeats}
        asked.json.write_text(json.dumps({**context, "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
