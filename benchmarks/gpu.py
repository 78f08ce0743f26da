"""Check and measure on a GPU, in one run of at most 8 minutes.

    python benchmarks/gpu.py [--json gpu.json]
    python benchmarks/gpu.py --dry-run

It prints five tables: the difference between a GPU and a CPU for all models of features, whose
logits and gradients are compared with the same weights; the same for models of pixels, with the
time and the memory of a training step; the difference of the features of encoders, and their
patches per second; patches per second of a queue with 1, 8 and 32 slides in flight; the memory of a
training step on large bags. Each table starts only if there is time left, and a row that fails has
the reason. A difference above its tolerance makes the exit code 1.

Without a GPU nothing is measured, and the exit code is 2. `--dry-run` runs all of it on a CPU,
compared with itself, with tiny sizes.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor, nn

from parfocal.bag import StoredBag
from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.queue import EncoderQueue
from parfocal.features.pixels import SlidePixels
from parfocal.models import MODELS
from parfocal.models.contract import training_loss
from parfocal.slide.slide import open_slide
from parfocal.slide.tissue import find_tissue
from parfocal.slide.write import write_pyramid

LIMIT_S = 480
TOLERANCE = 2e-3  # largest difference, relative to the largest number; TF32 is off
ENCODERS = ("tiny", "resnet50-layer3-random", "efficientnet-lite0")
SMALL = {  # settings of models with large defaults, for the dry run
    "transmil": {"num_landmarks": 4, "dim": 16, "num_heads": 2},
    "magnet": {"picture_px": 16, "leaf_px": 32, "backbone": "small", "auxiliary_backbone": None},
    "jsma": {"backbone": "small", "thumbnail_px": 64},
    "attentionsampling": {"backbone": "small", "thumbnail_px": 64},
}


@dataclass(frozen=True)
class Sizes:
    """How much is run.

    Args:
        patches: patches of a bag at the lowest magnification.
        large: patches of the large bags.
        encoded: patches per measurement of an encoder.
        requests: requests of each slide in the queue.
        slide: side of the painted slide, in pixels.
        batch: slides in a batch of pixels.
        in_flight: slides in flight in the queue.
    """

    patches: int = 500
    large: int = 100_000
    encoded: int = 2048
    requests: int = 8
    slide: int = 4096
    batch: int = 8
    in_flight: tuple[int, ...] = (1, 8, 32)


TINY = Sizes(12, 300, 8, 1, 512, 1, (1, 2))


@dataclass
class Run:
    """What is measured, on which device, and until when."""

    device: torch.device
    sizes: Sizes
    dry: bool
    until: float
    tables: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    failures: int = 0

    def table(self, title: str, rows: Iterator[dict[str, object]]) -> None:
        """Print the rows of a table as they are measured."""
        print(f"\n## {title}", flush=True)
        self.tables[title] = []
        for number, row in enumerate(rows):
            if number == 0:
                print("| " + " | ".join(row) + " |\n" + "|---" * len(row) + "|")
            print("| " + " | ".join(_text(value) for value in row.values()) + " |", flush=True)
            self.tables[title].append(row)
            if time.perf_counter() > self.until:
                print("(out of time)")
                return


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def compared(name: str, run: Run, measure: Callable[[], tuple[float, ...]]) -> dict[str, object]:
    """Return the row of a comparison; one that fails or exceeds the tolerance is counted."""
    try:
        logits, gradients = measure()
    except Exception as error:  # a table shows what failed
        run.failures += 1
        return {"name": name, "logits": "", "gradients": "", "verdict": _reason(error)}
    equal = max(logits, gradients) <= TOLERANCE
    run.failures += not equal
    verdict = "equal" if equal else f"differs by more than {TOLERANCE:g}"
    return {"name": name, "logits": logits, "gradients": gradients, "verdict": verdict}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest difference of two lists of tensors, relative to the largest number."""
    pairs = [(a.cpu().double(), b.cpu().double()) for a, b in zip(one, other, strict=True)]
    largest = max(float(a.abs().max()) for a, _ in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / max(largest, 1e-12)


def cells(step: int, rows: np.ndarray) -> np.ndarray:
    return np.stack([rows % 64, rows // 64], axis=1)


def bag(count: int, dim: int, magnifications: int, device: torch.device) -> StoredBag:
    """Return a bag of random features."""
    generator = torch.Generator().manual_seed(0)
    tables = [
        torch.randn(count * 4**step, dim, generator=generator).to(device)
        for step in range(magnifications)
    ]
    return StoredBag(tables, cells=cells)


def build(name: str, run: Run, device: torch.device) -> nn.Module:
    """Build a model with the same weights on any device."""
    torch.manual_seed(0)
    entry = MODELS[name]
    arguments = entry.run_arguments(
        in_dim=64,
        num_classes=2,
        num_slides=2,
        magnifications=(5.0, 10.0) if entry.traits.multiple_magnifications else (10.0,),
        patch_size=64,
    )
    arguments |= SMALL.get(name, {}) if run.dry else {}
    if entry.traits.random:
        arguments["generator"] = torch.Generator().manual_seed(0)
    return entry.build(**arguments).to(device)


def outputs(name: str, run: Run, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Return the logits and the gradients of a model in evaluation mode, without dropout."""
    model, traits = build(name, run, device).eval(), MODELS[name].traits
    count = 2 if traits.multiple_magnifications else 1
    prediction = model(bag(run.sizes.patches, 64, count, device))
    loss = F.cross_entropy(prediction.logits, torch.tensor(1, device=device))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return [prediction.logits.detach()], list(gradients)


def feature_models(run: Run) -> Iterator[dict[str, object]]:
    """Compare every model of features on both devices."""

    def measure(name: str) -> tuple[float, float]:
        one, other = (outputs(name, run, each) for each in (torch.device("cpu"), run.device))
        return difference(one[0], other[0]), difference(one[1], other[1])

    for name, entry in MODELS.items():
        if entry.traits.takes == "features":
            yield compared(name, run, lambda name=name: measure(name))


@contextmanager
def painted(run: Run) -> Iterator[list[SlidePixels]]:
    """Yield sources of the pixels of a painted slide."""
    side = run.sizes.slide
    pixels = np.random.default_rng(0).integers(60, 220, (side // 16, side // 16, 3), np.uint8)
    pixels = pixels.repeat(16, axis=0).repeat(16, axis=1)

    def tile(column: int, row: int) -> np.ndarray:
        return pixels[row * 256 :, column * 256 :][:256, :256]

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(4) as pool:
        path = Path(folder) / "slide.tif"
        write_pyramid(path, tile, (side, side), mpp=0.5, downsamples=(1, 4))
        with open_slide(path) as slide:
            tissue = find_tissue(slide, method="all")
            yield [SlidePixels(slide, tissue, pool=pool) for _ in range(run.sizes.batch)]


def pixel_models(run: Run) -> Iterator[dict[str, object]]:
    """Compare models of pixels on both devices, and time a training step."""
    for name in ("jsma", "magnet", "attentionsampling"):
        row: dict[str, object] = {"name": name, "logits": "", "s per step": "", "peak, GB": ""}
        try:
            with painted(run) as sources, torch.no_grad():
                answers = [
                    build(name, run, each).eval()(sources[:1]).logits
                    for each in (torch.device("cpu"), run.device)
                ]
            row["logits"] = difference(answers[:1], answers[1:])
            run.failures += float(str(row["logits"])) > TOLERANCE
            with painted(run) as sources:
                row["s per step"], row["peak, GB"] = _time_step(name, run, sources)
        except Exception as error:  # a table shows what failed
            run.failures += 1
            row["logits"] = _reason(error)
        yield row


def _time_step(name: str, run: Run, sources: Sequence[SlidePixels]) -> tuple[float, float]:
    model = build(name, run, run.device).train()
    target = torch.arange(len(sources), device=run.device) % 2
    train_once(model, name, sources, target)
    return timed(partial(train_once, model, name, sources, target), run)


def train_once(model: nn.Module, name: str, given: object, target: Tensor) -> None:
    """Run forward, loss and backward."""
    traits = MODELS[name].traits
    training_loss(model, traits, model(given), target, F.cross_entropy).backward()


def timed(work: Callable[[], object], run: Run) -> tuple[float, float]:
    """Return the seconds of a call, and the peak memory of the GPU in GB."""
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if run.device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter() - start, torch.cuda.max_memory_allocated() / 1e9
    return time.perf_counter() - start, 0.0


def encoders(run: Run) -> Iterator[dict[str, object]]:
    """Compare the features of encoders on both devices, and count patches per second."""
    generator = np.random.default_rng(0)
    for name in ENCODERS[:1] if run.dry else ENCODERS:
        row: dict[str, object] = {"name": name, "features": "", "patches/s": "", "peak, GB": ""}
        try:
            cpu = load_encoder(name, device="cpu", runtime="torch", tune_allocator=False)
            there = load_encoder(name, device=str(run.device), runtime="torch")
            side = 16 if run.dry else 256
            patches = generator.integers(0, 255, (run.sizes.encoded, side, side, 3), np.uint8)
            row["features"] = difference([cpu(patches[:16])], [there(patches[:16])])
            run.failures += float(str(row["features"])) > 10 * TOLERANCE  # half precision on a GPU
            seconds, row["peak, GB"] = timed(lambda e=there, p=patches: e(p), run)
            row["patches/s"] = len(patches) / seconds
        except Exception as error:  # such as weights that are not on this machine
            row["features"] = _reason(error)
        yield row


def queue(run: Run) -> Iterator[dict[str, object]]:
    """Count the patches per second of slides in flight, whose requests have 48 patches."""
    name = "tiny" if run.dry else "resnet50-layer3-random"
    encoder: Encoder = load_encoder(name, device=str(run.device), runtime="torch")
    side = 16 if run.dry else 256
    patches = np.random.default_rng(0).integers(0, 255, (48, side, side, 3), np.uint8)
    encoder(patches)
    for slides in run.sizes.in_flight:
        joint = EncoderQueue(encoder)

        def slide(number: int, joint: EncoderQueue = joint) -> None:
            for _ in range(run.sizes.requests):
                joint(patches)

        with ThreadPoolExecutor(slides) as pool:
            seconds, _ = timed(lambda p=pool, s=slides: list(p.map(slide, range(s))), run)
        count = slides * run.sizes.requests * len(patches)
        yield {"slides in flight": slides, "patches": count, "patches/s": count / seconds}


def large_bags(run: Run) -> Iterator[dict[str, object]]:
    """Measure a training step on bags of many patches."""
    for name in ("abmil", "transmil", "zoommil", "paths"):
        row: dict[str, object] = {"name": name, "patches": 0, "s per step": "", "peak, GB": ""}
        try:
            traits = MODELS[name].traits
            zooms = traits.multiple_magnifications
            count = run.sizes.large // 4 if zooms else run.sizes.large
            if name == "paths":  # its attention is quadratic in the patches of the lowest
                count = min(count, 4000)
            given = bag(count, 64, 2 if zooms else 1, run.device)
            row["patches"] = count * 4 if zooms else count
            model = build(name, run, run.device).train()

            target = torch.tensor(1, device=run.device)
            train_once(model, name, given, target)
            step = partial(train_once, model, name, given, target)
            row["s per step"], row["peak, GB"] = timed(step, run)
        except Exception as error:  # such as too little memory
            run.failures += 1
            row["s per step"] = _reason(error)
        yield row


SECTIONS = {
    "Models of features: GPU against CPU": feature_models,
    "Models of pixels: GPU against CPU, and a training step": pixel_models,
    "Encoders": encoders,
    "Encoder queue": queue,
    "Large bags": large_bags,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with tiny sizes")
    parser.add_argument("--seconds", type=float, default=LIMIT_S, help="time for all tables")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        print("No GPU is available, so nothing was measured; --dry-run runs on a CPU.")
        sys.exit(2)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    run = Run(
        torch.device("cpu" if arguments.dry_run else "cuda"),
        TINY if arguments.dry_run else Sizes(),
        arguments.dry_run,
        time.perf_counter() + arguments.seconds,
    )
    name = "CPU" if arguments.dry_run else torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}")
    for title, section in SECTIONS.items():
        if time.perf_counter() > run.until:
            print(f"\n## {title}\n(out of time)")
            continue
        run.table(title, section(run))
    if arguments.json:
        content = {"device": name, "sizes": asdict(run.sizes), "tables": run.tables}
        arguments.json.write_text(json.dumps(content, indent=1))
    sys.exit(1 if run.failures else 0)


if __name__ == "__main__":
    main()
