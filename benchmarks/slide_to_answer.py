"""Measure the time from a slide file to a prediction, against encoding every patch.

Each row is timed in one process with the model loaded; the two methods take turns, and the median
is printed. `over bare` is the time divided by the time to encode the same patches from memory and
do nothing else (for all patches: 960 of them, scaled). `speed-up` is the time of encoding all
patches at 10x divided by the time of the row, and `of patches` is the speed-up divided by the ratio
of the numbers of patches. `higher s` is the time at the magnifications after the first, in one run;
it should not grow with the tissue.

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

from parfocal.bag import Bag
from parfocal.cost import Cost, CostMeter
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.features.header import SlideSettings
from parfocal.features.live import live_bag
from parfocal.grid import PatchGrid
from parfocal.models import MODELS
from parfocal.prediction import Prediction
from parfocal.slide import open_slide

T = TypeVar("T")

BARE_SAMPLE = 960  # number of patches timed if there are many; the time is scaled

MAGNIFICATIONS = {  # and the number of patches to zoom into
    "1.25, 2.5": ((1.25, 2.5), 8),
    "1.25, 2.5, 10": ((1.25, 2.5, 10.0), 12),
    "1.25, 2.5, 5, 10": ((1.25, 2.5, 5.0, 10.0), 12),
}


class StepTimedBag:
    """A bag that times reading and encoding at each magnification."""

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

    def zoom(self, select: torch.Tensor) -> "StepTimedBag":
        return StepTimedBag(self._bag.zoom(select), self._seconds)


@dataclass(frozen=True)
class Run:
    """One prediction of one slide."""

    prediction: Prediction
    grid: PatchGrid
    cost: Cost
    step_seconds: list[float]


def predict(path: Path, magnifications: tuple[float, ...], model, encoder: Encoder) -> Run:
    cost_meter = CostMeter()
    with open_slide(path, cost_meter=cost_meter) as slide:
        grid = SlideSettings(magnifications).grid(slide)
        step_seconds: list[float] = []
        bag = StepTimedBag(live_bag(slide, grid, encoder), step_seconds)
        with torch.inference_mode(), cost_meter.measure_macs(), cost_meter.measure_time("model"):
            prediction = model(bag)
    return Run(prediction, grid, cost_meter.total(), step_seconds)


def read_pixels(path: Path, run: Run, limit: int | None = None) -> np.ndarray:
    """Read the patches of a run into memory, up to `limit` per magnification."""
    patches = []
    with open_slide(path) as slide:
        for step, look in enumerate(run.prediction.looks):
            rows = look.rows.numpy()
            existing = rows[run.grid.valid(step, rows)][:limit]
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
        return MODELS["mean"].build(in_dim=dim, num_classes=2).eval()
    return (
        MODELS["zoommil"]
        .build(in_dim=dim, num_classes=2, num_magnifications=len(magnifications), k=k)
        .eval()
    )


def measure(path: Path, encoder: Encoder, repeats: int, exhaustive: bool) -> list[dict]:
    rows = []
    all_patches = None
    if exhaustive:
        model = build((10.0,), 0, encoder.spec.dim)
        seconds, exhaustive_run = timed(predict, path, (10.0,), model, encoder)
        patches = sum(exhaustive_run.cost.patches)
        pixels = read_pixels(path, exhaustive_run, BARE_SAMPLE)
        bare = timed(encoder, pixels)[0] * patches / len(pixels)
        all_patches = (seconds, patches)
        rows.append(row("all at 10x", exhaustive_run, seconds, bare, None))
    for name, (magnifications, k) in MAGNIFICATIONS.items():
        model = build(magnifications, k, encoder.spec.dim)
        run = predict(path, magnifications, model, encoder)  # warms the file cache
        pixels = read_pixels(path, run)
        encoder(pixels[:32])
        zooming, encoding = [], []
        for _ in range(repeats):
            zooming.append(timed(predict, path, magnifications, model, encoder)[0])
            encoding.append(timed(encoder, pixels)[0])
        rows.append(
            row(name, run, statistics.median(zooming), statistics.median(encoding), all_patches)
        )
    return rows


def row(
    name: str, run: Run, seconds: float, bare: float, all_patches: tuple[float, int] | None
) -> dict:
    patches = sum(run.cost.patches)
    out = {
        "magnifications": name,
        "patches": patches,
        "patches_per_step": list(run.cost.patches),
        "tissue_patches_10x": run.grid.sharpest_patches,
        "mpixels": run.cost.pixels_decoded / 1e6,
        "tmacs": run.cost.macs / 1e12,
        "seconds": seconds,
        "higher_seconds": sum(run.step_seconds[1:]),
        "over_bare": seconds / bare,
        "speed_up": None,
        "of_patches": None,
    }
    if all_patches is not None:
        out["speed_up"] = all_patches[0] / seconds
        out["of_patches"] = out["speed_up"] / (all_patches[1] / patches)
    return out


def show(rows: list[dict], title: str) -> None:
    print(f"\n{title}")
    print(
        f"{'magnifications':22}{'patches':>9}{'Mpx':>9}{'TMAC':>8}{'s':>9}{'higher s':>9}"
        f"{'over bare':>10}{'speed-up':>9}{'of patches':>12}"
    )
    for r in rows:
        ratio = "" if r["speed_up"] is None else f"{r['speed_up']:.1f}"
        share = "" if r["of_patches"] is None else f"{r['of_patches']:.2f}"
        print(
            f"{r['magnifications']:22}{r['patches']:>9,}{r['mpixels']:>9.1f}{r['tmacs']:>8.3f}"
            f"{r['seconds']:>9.2f}{r['higher_seconds']:>9.2f}{r['over_bare']:>10.2f}{ratio:>9}{share:>12}"
        )


def start_up(encoder: str, weights: Path | None) -> dict[str, float]:
    """Time a new process that imports `predict` and loads the encoder."""
    code = (
        "import time; t = time.perf_counter();"
        "import parfocal.predict.slide; a = time.perf_counter();"
        "from pathlib import Path; from parfocal.encoders.loading import load_encoder;"
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
    parser.add_argument(
        "slides",
        nargs="+",
        type=Path,
        help="slide files; for the first, all patches are encoded, too",
    )
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--weights", type=Path, help="file with weights of the encoder")
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
