"""From a slide file to an answer: zooming in, looking at everything, and bare encoding.

Each row is timed in one process with the model loaded, the sides in turn; medians. `ratio` is
the time of looking at everything at 10x over the time of zooming, `of patches` that ratio over
the ratio of patches encoded, and `bare` the time of zooming over that of encoding the same
patches from memory with nothing else done (of everything: 960 of them, scaled). `sharp s` is the
time of the looks after the first, in one run: it should not grow with the tissue.

    python benchmarks/slide_to_answer.py SLIDE... --encoder efficientnet-lite0
    python benchmarks/slide_to_answer.py SLIDE... --encoder resnet50-layer3-random
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from parfocal.bag import Bag, Prediction
from parfocal.cost import Cost, CostMeter
from parfocal.encoders.encoder import Encoder, load_encoder
from parfocal.features.header import SlideSettings
from parfocal.features.live import live_bag
from parfocal.grid import PatchGrid
from parfocal.models import MODELS
from parfocal.slide import open_slide

T = TypeVar("T")

BARE_SAMPLE = 960  # patches of all, whose time stands for the rest

LADDERS = {
    "1.25, 2.5": ((1.25, 2.5), 8),
    "1.25, 2.5, 10": ((1.25, 2.5, 10.0), 12),
    "1.25, 2.5, 5, 10": ((1.25, 2.5, 5.0, 10.0), 12),
}


class TimedBag:
    """A bag that notes how long each look takes, reading and encoding included."""

    def __init__(self, bag: Bag, seconds: list[float]) -> None:
        self._bag, self._seconds = bag, seconds

    @property
    def rows(self) -> torch.Tensor:
        return self._bag.rows

    @property
    def valid(self) -> torch.Tensor:
        return self._bag.valid

    def features(self) -> torch.Tensor:
        seconds, features = timed(self._bag.features)
        self._seconds.append(seconds)
        return features

    def zoom(self, select: torch.Tensor) -> "TimedBag":
        return TimedBag(self._bag.zoom(select), self._seconds)


@dataclass(frozen=True)
class Answer:
    """One run over one slide."""

    prediction: Prediction
    grid: PatchGrid
    cost: Cost
    looks: list[float]


def answer(path: Path, magnifications: tuple[float, ...], model, encoder: Encoder) -> Answer:
    bill = CostMeter()
    with open_slide(path, bill=bill) as slide:
        grid = SlideSettings(magnifications).grid(slide)
        looks: list[float] = []
        bag = TimedBag(live_bag(slide, grid, encoder), looks)
        with torch.inference_mode(), bill.counted(), bill.timed("model"):
            prediction = model(bag)
    return Answer(prediction, grid, bill.close(), looks)


def pixels_of(path: Path, run: Answer, most: int | None = None) -> np.ndarray:
    """Read the patches a run looked at into memory, or as many of them as wanted."""
    patches = []
    with open_slide(path) as slide:
        for step, look in enumerate(run.prediction.looks):
            rows = look.rows.numpy()
            existing = rows[run.grid.valid(step, rows)][:most]
            patches += [
                slide.read(box, run.grid.mpps[step]) for box in run.grid.boxes(step, existing)
            ]
    return np.stack(patches)


def timed(call: Callable[..., T], *arguments: object) -> tuple[float, T]:
    start = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - start, result


def build(magnifications: tuple[float, ...], k: int, dim: int):
    torch.manual_seed(0)
    if len(magnifications) == 1:
        return MODELS["mean"](dim, 2).eval()
    return MODELS["zoommil"](dim, 2, num_magnifications=len(magnifications), k=k).eval()


def measure(path: Path, encoder: Encoder, repeats: int, exhaustive: bool) -> list[dict]:
    rows = []
    everything = None
    if exhaustive:
        model = build((10.0,), 0, encoder.spec.dim)
        seconds, everything_run = timed(answer, path, (10.0,), model, encoder)
        patches = sum(everything_run.cost.patches)
        pixels = pixels_of(path, everything_run, BARE_SAMPLE)
        bare = timed(encoder, pixels)[0] * patches / len(pixels)
        everything = (seconds, patches)
        rows.append(row("everything at 10x", everything_run, seconds, bare, None))
    for name, (magnifications, k) in LADDERS.items():
        model = build(magnifications, k, encoder.spec.dim)
        run = answer(path, magnifications, model, encoder)  # warms the file cache
        pixels = pixels_of(path, run)
        encoder(pixels[:32])
        zooming, encoding = [], []
        for _ in range(repeats):
            zooming.append(timed(answer, path, magnifications, model, encoder)[0])
            encoding.append(timed(encoder, pixels)[0])
        rows.append(
            row(name, run, statistics.median(zooming), statistics.median(encoding), everything)
        )
    return rows


def row(
    name: str, run: Answer, seconds: float, bare: float, everything: tuple[float, int] | None
) -> dict:
    patches = sum(run.cost.patches)
    out = {
        "look": name,
        "patches": patches,
        "by_step": list(run.cost.patches),
        "tissue_patches_10x": run.grid.sharpest_patches,
        "mpixels": run.cost.pixels_decoded / 1e6,
        "tmacs": run.cost.macs / 1e12,
        "seconds": seconds,
        "sharp_seconds": sum(run.looks[1:]),
        "bare": seconds / bare,
        "ratio": None,
        "of_patches": None,
    }
    if everything is not None:
        out["ratio"] = everything[0] / seconds
        out["of_patches"] = out["ratio"] / (everything[1] / patches)
    return out


def show(rows: list[dict], title: str) -> None:
    print(f"\n{title}")
    print(
        f"{'look':22}{'patches':>9}{'Mpx':>9}{'TMAC':>8}{'s':>9}{'sharp s':>9}"
        f"{'bare':>7}{'ratio':>8}{'of patches':>12}"
    )
    for r in rows:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.1f}"
        share = "" if r["of_patches"] is None else f"{r['of_patches']:.2f}"
        print(
            f"{r['look']:22}{r['patches']:>9,}{r['mpixels']:>9.1f}{r['tmacs']:>8.3f}"
            f"{r['seconds']:>9.2f}{r['sharp_seconds']:>9.2f}{r['bare']:>7.2f}{ratio:>8}{share:>12}"
        )


def start_up(encoder: str, weights: Path | None) -> dict[str, float]:
    """Time a fresh process that imports what `predict` needs, then loads the encoder."""
    code = (
        "import time; t = time.perf_counter();"
        "import parfocal.predict.slide; a = time.perf_counter();"
        "from pathlib import Path; from parfocal.encoders.encoder import load_encoder;"
        f"load_encoder({encoder!r}, weights={f'Path({str(weights)!r})' if weights else None});"
        "b = time.perf_counter(); print(a - t, b - a)"
    )
    runs = []
    for _ in range(3):
        whole, done = timed(
            partial(subprocess.run, capture_output=True, text=True, check=True),
            [sys.executable, "-c", code],
        )
        runs.append((*map(float, done.stdout.split()), whole))
    imports, weights_, whole = (statistics.median(column) for column in zip(*runs, strict=True))
    return {"imports": imports, "weights": weights_, "process": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="+", type=Path, help="the first is also looked at whole")
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--weights", type=Path, help="a file of them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    encoder = load_encoder(
        arguments.encoder,
        device=arguments.device,
        weights=arguments.weights,
        runtime=arguments.runtime,
    )
    encoder(np.zeros((4, 256, 256, 3), np.uint8))
    results = {
        "encoder": arguments.encoder,
        "start_up": start_up(arguments.encoder, arguments.weights),
    }
    print("start-up, s:", {k: round(v, 2) for k, v in results["start_up"].items()})
    for number, path in enumerate(arguments.slides):
        rows = measure(path, encoder, arguments.repeats, exhaustive=number == 0)
        results[path.name] = rows
        show(rows, f"{path.name}, {arguments.encoder}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
