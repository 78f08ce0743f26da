"""Measure what an encoder for each magnification saves: a small one to find, a large one to judge.

Each row is the time from a slide file to a prediction of ZoomMIL, with the models loaded, as the
median of `--repeats` runs that take turns. The encoders are plain vision transformers of 16-pixel
patches at 224 pixels with random weights, as large as ViT-S (small) and ViT-L (large). `over large`
is the row divided by the row with the large encoder at both magnifications, in seconds and in
multiply-accumulates (MACs), and `s / MACs` the quotient of the two: 1 if seconds follow the MACs.
`CPU / MACs` is the same with processor time, which other programs on the machine hardly change.
The exhaustive rows encode every tissue patch at the highest magnification; if there are more than
`--bare` of them, that many are timed from memory and the time is scaled.

    python benchmarks/two_encoders.py SLIDE
    python benchmarks/two_encoders.py SLIDE --device cuda --repeats 5
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from parfocal.cost import CostMeter
from parfocal.encoders.device import choose_device
from parfocal.encoders.encoder import Encoder, NetworkEncoder
from parfocal.encoders.per_magnification import in_dim_of
from parfocal.encoders.spec import ANY_MPP, IMAGENET_MEAN, IMAGENET_STD, EncoderSpec
from parfocal.features.header import SlideSettings
from parfocal.features.live import live_bag
from parfocal.grid import PatchGrid
from parfocal.models import MODELS
from parfocal.slide import open_slide

MAGNIFICATIONS = (2.5, 10.0)
INPUT, PATCH = 224, 16
SIZES = {  # width, layers, heads
    "small": (384, 12, 6),
    "large": (1024, 24, 16),
    "tiny": (192, 12, 3),  # to see that the benchmark works
}


class VisionTransformer(nn.Module):
    """A vision transformer without its classifier; the features are the class token."""

    def __init__(self, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position = nn.Parameter(torch.randn(1, (INPUT // PATCH) ** 2 + 1, dim) * 0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of normalized images."""
        tokens = self.embed(images).flatten(2).transpose(1, 2)  # n t d
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        features: Tensor = self.norm(self.blocks(tokens + self.position)[:, 0])
        return features


class Block(nn.Module):
    """Self-attention and a perceptron, each with a residual connection and a norm before."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.qkv, self.project = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens."""
        n, t, d = x.shape
        qkv = self.qkv(self.norms[0](x)).view(n, t, 3, self.heads, d // self.heads)
        attended = nn.functional.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.project(attended.transpose(1, 2).reshape(n, t, d))
        result: Tensor = x + self.mlp(self.norms[1](x))
        return result


def vit(size: str, device: str) -> Encoder:
    """Return an encoder with random weights."""
    torch.manual_seed(0)
    dim, layers, heads = SIZES[size]
    spec = EncoderSpec(
        name=f"vit-{size}-random",
        dim=dim,
        input_size=INPUT,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        mpp_range=ANY_MPP,
        license="none, drawn from a seed",
        weights_hash="random-seed-0",
    )
    return NetworkEncoder(spec, VisionTransformer(dim, layers, heads), device=device)


@dataclass(frozen=True)
class Run:
    """One prediction of one slide."""

    seconds: float
    cpu_seconds: float
    patches: tuple[int, ...]
    macs: int
    grid: PatchGrid


def predict(path: Path, encoders: list[Encoder], model: nn.Module) -> Run:
    """Predict a slide from its file."""
    meter, start, cpu_start = CostMeter(), time.perf_counter(), time.process_time()
    with open_slide(path, cost_meter=meter) as slide:
        grid = SlideSettings(MAGNIFICATIONS).grid(slide)
        with torch.inference_mode(), meter.measure_macs():
            model(live_bag(slide, grid, encoders)).logits.cpu()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    cost = meter.total()
    assert cost.macs is not None
    return Run(seconds, cpu_seconds, cost.patches, cost.macs, grid)


def build(encoders: list[Encoder], k: int, device: str) -> nn.Module:
    """Build ZoomMIL for the widths of the encoders."""
    torch.manual_seed(0)
    in_dim = in_dim_of([encoder.spec for encoder in encoders])
    model = MODELS["zoommil"].build(in_dim=in_dim, num_classes=2, num_magnifications=2, k=k)
    return model.eval().to(device)


def exhaustive(path: Path, encoder: Encoder, grid: PatchGrid, limit: int) -> Run:
    """Return the cost of encoding every tissue patch at 10x."""
    rows = np.flatnonzero(grid.valid(1))
    sample = rows[:: max(1, len(rows) // limit)][:limit]
    with open_slide(path) as slide:
        pixels = np.stack([slide.read(box, grid.mpps[1]) for box in grid.boxes(1, sample)])
    start, cpu_start = time.perf_counter(), time.process_time()
    encoder(pixels).cpu()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    macs, patches = encoder.macs_per_patch(), grid.sharpest_patches
    assert macs is not None
    times = patches / len(pixels)
    return Run(seconds * times, cpu_seconds * times, (patches,), patches * macs, grid)


def measure(path: Path, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Measure all rows for one slide."""
    device = str(choose_device(arguments.device))
    low, high = (vit(size, device) for size in arguments.sizes)
    ladders = {"large at both": [high, high], "small, then large": [low, high]}
    models = {name: build(each, arguments.k, device) for name, each in ladders.items()}
    for encoder in (low, high):  # warms up
        encoder(np.zeros((encoder.batch_size, 256, 256, 3), np.uint8))
    runs: dict[str, list[Run]] = {name: [] for name in ladders}
    for _ in range(arguments.repeats):
        for name, encoders in ladders.items():
            runs[name].append(predict(path, encoders, models[name]))
    rows: list[dict[str, object]] = []
    for name, each in runs.items():
        rows.append(row(name, each, rows))
    for name, encoder in (("all at 10x, large", high), ("all at 10x, small", low)):
        rows.append(row(name, [exhaustive(path, encoder, each[0].grid, arguments.bare)], rows))
    return rows


def row(name: str, runs: list[Run], rows: list[dict[str, object]]) -> dict[str, object]:
    """Return one row of the table, compared with the first."""
    found: dict[str, float] = {
        "seconds": statistics.median(run.seconds for run in runs),
        "cpu_seconds": statistics.median(run.cpu_seconds for run in runs),
        "macs": runs[0].macs,
    }
    first = rows[0] if rows else found
    over = {key: value / float(str(first[key])) for key, value in found.items()}
    return {
        **{"name": name, "patches": runs[0].patches, **found},
        "over_large_seconds": over["seconds"],
        "over_large_macs": over["macs"],
        "seconds_over_macs": over["seconds"] / over["macs"],
        "cpu_over_macs": over["cpu_seconds"] / over["macs"],
    }


def show(rows: list[dict[str, object]], title: str) -> None:
    """Print the table."""
    print(f"\n{title}")
    print(
        f"{'encoders':20}{'patches':>14}{'TMAC':>9}{'s':>9}{'over large: s':>15}{'MACs':>8}"
        f"{'s / MACs':>10}{'CPU / MACs':>12}"
    )
    for r in rows:
        counts = " + ".join(f"{count:,}" for count in r["patches"])  # type: ignore[attr-defined]
        print(
            f"{r['name']:20}{counts:>14}{float(str(r['macs'])) / 1e12:>9.3f}{r['seconds']:>9.2f}"
            f"{r['over_large_seconds']:>15.3f}{r['over_large_macs']:>8.3f}"
            f"{r['seconds_over_macs']:>10.2f}{r['cpu_over_macs']:>12.2f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="+", type=Path, metavar="SLIDE")
    parser.add_argument("--sizes", nargs=2, choices=SIZES, default=["small", "large"])
    parser.add_argument("--k", type=int, default=12, help="patches to zoom into")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--bare", type=int, default=32, help="patches timed for the exhaustive rows"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = {}
    for path in arguments.slides:
        rows = measure(path, arguments)
        results[path.name] = rows
        show(rows, f"{path.name}, {' and '.join(arguments.sizes)}, {arguments.device}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
