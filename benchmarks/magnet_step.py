"""Measure a training step of MagNet from slide files, compared with the same step from memory.

    python benchmarks/paint_slides.py /tmp/slides
    python benchmarks/magnet_step.py /tmp/slides/*.tif [--patches 2,3,3] [--batch 4] [--device cuda]
    python benchmarks/magnet_step.py /tmp/slides/small.tif --kept [--checkpointing]
    python benchmarks/magnet_step.py --sampler

Both variants use the same constant weights, so they read the same squares. They alternate, and the
median is reported. Files may be in the disk cache of the system. Peak memory is that of the
process, or of the GPU. `--kept` counts the activations that the forward pass of a slide keeps for
the backward pass; `--sampler` compares the linearized sampler with a single grid_sample of as many
points, forward and backward.
"""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)

from parfocal.features.live import reading_threads
from parfocal.features.pixels import SlidePixels
from parfocal.models.magnet import MagNet
from parfocal.models.magnet.multisampling import LinearizedSampler
from parfocal.slide.slide import Slide, open_slide
from parfocal.slide.tissue import find_tissue

SIDES = {"pictures": (126, 56, 16), "leaves": (504, 224, 4)}  # image side, view side, images


def seconds(work: Callable[[], object], device: str) -> float:
    """Return the seconds of a call, including the work queued on a GPU."""
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def step(model: MagNet, sources: Sequence[SlidePixels]) -> None:
    """Run forward, loss and backward."""
    label = torch.arange(len(sources), device=next(model.parameters()).device) % 2
    model.zero_grad()
    model.objective(model(sources), label, F.cross_entropy).backward()


def build(arguments: argparse.Namespace) -> MagNet:
    torch.manual_seed(0)
    return MagNet(
        2,
        patches=[int(count) for count in arguments.patches.split(",")],
        backbone=arguments.backbone,
        auxiliary_backbone=arguments.backbone,
        gradient_checkpointing=arguments.checkpointing,
    ).to(arguments.device)


def count_kept(slide: Slide, model: MagNet) -> dict[str, float]:
    """Return the memory of all tensors kept for the backward pass, without the weights."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # kept alive, so that its address is not reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model([SlidePixels(slide, find_tissue(slide))])
    for weight in model.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    return {"kept_bytes_per_slide": sum(storage.nbytes() for storage in kept.values())}


def time_steps(slides: Sequence[Slide], arguments: argparse.Namespace) -> dict[str, float]:
    model = build(arguments)
    tissues = [find_tissue(slide) for slide in slides]
    with ThreadPoolExecutor(reading_threads()) as pool:

        def sources() -> list[SlidePixels]:
            return [SlidePixels(*each, pool=pool) for each in zip(slides, tissues, strict=True)]

        in_memory = sources()
        step(model, in_memory)
        times: dict[str, list[float]] = {"files": [], "memory": []}
        for _ in range(arguments.repeats):
            fresh = sources()
            times["files"].append(seconds(lambda new=fresh: step(model, new), arguments.device))
            times["memory"].append(seconds(lambda: step(model, in_memory), arguments.device))
    found = {name: statistics.median(each) for name, each in times.items()}
    if arguments.device == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    else:
        peak = torch.cuda.max_memory_allocated()
    return {**found, "ratio": found["files"] / found["memory"], "peak_bytes": peak}


def time_sampler(image_side: int, side: int, images: int, *, repeats: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(images, 3, image_side, image_side, generator=generator)
    at = torch.rand(images, 1, side, side, 2, generator=generator) - 0.5
    sampler = LinearizedSampler(generator=generator)

    def linearized() -> None:
        sampler(image, at.clone().requires_grad_()).sum().backward()

    def plain() -> None:
        points = at[:, 0].repeat(1, sampler.points, 1, 1).requires_grad_()
        F.grid_sample(image, points, align_corners=False).sum().backward()

    times: dict[str, list[float]] = {"linearized": [], "grid_sample": []}
    linearized(), plain()
    for _ in range(repeats):
        times["linearized"].append(seconds(linearized, "cpu"))
        times["grid_sample"].append(seconds(plain, "cpu"))
    found = {name: statistics.median(each) for name, each in times.items()}
    return {**found, "ratio": found["linearized"] / found["grid_sample"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--patches", default="2,3,3")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--sampler", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.sampler:
        found: object = {
            name: time_sampler(*sides, repeats=arguments.repeats) for name, sides in SIDES.items()
        }
    elif arguments.kept:
        found = count_kept(open_slide(arguments.slides[0]), build(arguments))
    else:
        paths = (arguments.slides * arguments.batch)[: arguments.batch]
        found = time_steps([open_slide(path) for path in paths], arguments)
    text = json.dumps(found, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text)


if __name__ == "__main__":
    main()
