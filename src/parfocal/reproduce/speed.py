"""Measure the speed of encoding and training on this machine, with a painted slide."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor, nn

from parfocal.bag import ModelInput, StoredBag
from parfocal.compare import Candidate
from parfocal.encoders.encoder import Encoder
from parfocal.features.header import SlideSettings
from parfocal.features.live import PatchEncoder, reading_threads
from parfocal.features.opener import open_input
from parfocal.models.checkpoint import build_model
from parfocal.models.contract import run_model
from parfocal.models.layers.widths import widths_per_magnification
from parfocal.prediction import Look
from parfocal.reproduce.experiments import ImageSize
from parfocal.settings import EncoderSettings, RunSettings
from parfocal.settings.encoders import load_encoders
from parfocal.slide.slide import open_slide
from parfocal.slide.write import write_pyramid

SIDE_PX, MPP = 4096, 0.25  # size of the painted slide if the data set has no fixed image size
TIMED_PATCHES = 16
# Random weights have the same speed and need no download.
SAME_SPEED = {"resnet50-layer3": "resnet50-layer3-random"}


@dataclass(frozen=True)
class EncodingSpeed:
    """Speed of encoding.

    Args:
        features: number of features per patch.
        seconds: seconds per patch, including reading.
    """

    features: int
    seconds: float


@dataclass(frozen=True)
class TrainingSpeed:
    """Speed of a training step on one slide.

    Args:
        patches: number of patches visited.
        seconds: seconds per step; includes reading for a model that takes pixels.
        weights: size of the model's weights, in bytes.
    """

    patches: int
    seconds: float
    weights: int


@contextmanager
def painted_slide(image: ImageSize | None) -> Iterator[Path]:
    """Write a slide of colored noise, all of it tissue, and delete it afterwards.

    Args:
        image: size of the slide; None for 1 mm at 40x.
    """
    size, mpp = ((SIDE_PX, SIDE_PX), MPP) if image is None else (image.size, image.mpp)
    noise = np.random.default_rng(0).integers(0, 60, (256, 256, 3), dtype=np.uint8)
    pixels = noise + np.array([150, 60, 130], dtype=np.uint8)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "painted.tif"
        write_pyramid(path, lambda column, row: pixels, size, mpp=mpp)
        yield path


def time_encoding(
    settings: EncoderSettings, slide_settings: SlideSettings, *, painted: Path, device: str
) -> dict[float, EncodingSpeed]:
    """Measure the encoding of a few patches with each encoder.

    Args:
        settings: settings of the encoders.
        slide_settings: settings of the patches; every encoder is measured at the highest
            magnification.
        painted: slide file to read.
        device: device for the encoders.

    Returns:
        Speed by magnification.

    Raises:
        EncoderError: an encoder is not available.
    """
    magnifications = slide_settings.magnifications
    names = {each: settings.name_at(each) for each in magnifications}
    same_speed = {each: SAME_SPEED.get(name, name) for each, name in names.items()}
    encoders = load_encoders(replace(settings, name=same_speed), magnifications, device=device)
    highest = magnifications[-1:]
    all_patches = SlideSettings(highest, slide_settings.patch_size, tissue_method="all")
    measured: dict[int, EncodingSpeed] = {}
    with open_slide(painted) as slide:
        grid = all_patches.grid(slide)
        for encoder in encoders:
            if id(encoder) not in measured:
                patches = PatchEncoder(slide, grid, (encoder,), reading_threads())
                seconds = _seconds_per_patch(patches, encoder)
                measured[id(encoder)] = EncodingSpeed(encoder.spec.dim, seconds)
    pairs = zip(magnifications, encoders, strict=True)
    return {magnification: measured[id(encoder)] for magnification, encoder in pairs}


def _seconds_per_patch(patches: PatchEncoder, encoder: Encoder) -> float:
    """Return the seconds per patch, without the first batch, which warms up."""
    wanted = encoder.batch_size + max(encoder.batch_size, TIMED_PATCHES)
    rows = np.arange(min(wanted, patches.grid.counts[0]))
    batches = patches.encode(0, rows)
    first, _ = next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - start) / max(1, len(rows) - len(first))


def time_training(
    candidate: Candidate,
    *,
    in_dim: int | Sequence[int],
    num_classes: int,
    num_patches: float | None,
    painted: Path,
    device: str,
) -> TrainingSpeed:
    """Measure a training step on one slide: forward and backward, with a warm-up step on a GPU.

    Args:
        candidate: the model.
        in_dim: number of features per patch, one for all magnifications or one for each.
        num_classes: number of classes.
        num_patches: number of patches at the highest magnification; None for a model that takes
            pixels.
        painted: slide file for a model that takes pixels.
        device: device for the model.
    """
    arguments = candidate.settings.model_arguments(
        in_dim=in_dim, num_classes=num_classes, num_slides=1
    )
    model = build_model(candidate.settings.model.name, arguments).to(device).train()
    for _ in range(2 if device.startswith("cuda") else 1):
        start = time.perf_counter()
        with _model_input(candidate.settings, in_dim, num_patches, painted, device) as model_input:
            patches = _train_step(model, model_input)
        seconds = time.perf_counter() - start
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return TrainingSpeed(patches, seconds, weights)


@contextmanager
def _model_input(
    settings: RunSettings,
    in_dim: int | Sequence[int],
    num_patches: float | None,
    painted: Path,
    device: str,
) -> Iterator[ModelInput]:
    """Return random features, or the pixels of the painted slide."""
    if num_patches is not None:
        yield random_bag(settings.slide.magnifications, in_dim, num_patches, device)
        return
    with (
        open_slide(painted) as slide,
        open_input(
            slide,
            settings.slide,
            None,
            skip_unavailable_magnifications=settings.model.skip_unavailable_magnifications,
        ) as slide_input,
    ):
        yield slide_input.model_input


def _train_step(model: nn.Module, model_input: ModelInput) -> int:
    """Run forward and backward on one slide, and return the number of visited patches."""
    prediction = run_model(model, [model_input])
    logits = prediction.logits.view(1, -1)
    loss: Tensor = F.cross_entropy(logits, torch.zeros(1, dtype=torch.int64, device=logits.device))
    loss.backward()  # type: ignore[no-untyped-call]
    if logits.is_cuda:
        torch.cuda.synchronize()
    return sum(_visited_patches(look) for look in prediction.slides[0].looks)


def _visited_patches(look: Look) -> int:
    order = None if look.places is None else look.places.order
    return len(look.rows) if order is None else int((order >= 0).sum())


def random_bag(
    magnifications: Sequence[float], in_dim: int | Sequence[int], num_patches: float, device: str
) -> StoredBag:
    """Return a bag of random features.

    Args:
        magnifications: magnifications, lowest first.
        in_dim: number of features per patch, one for all magnifications or one for each.
        num_patches: number of patches at the highest magnification.
        device: device of the features.
    """
    ratios = [round(each / magnifications[0]) ** 2 for each in magnifications]
    lowest = max(1, round(num_patches / ratios[-1]))
    widths = widths_per_magnification(in_dim, len(magnifications))
    levels = [
        torch.randn(lowest * ratio, width, device=device)
        for ratio, width in zip(ratios, widths, strict=True)
    ]
    across = max(1, round(len(levels[-1]) ** 0.5))
    return StoredBag(levels, cells=lambda _, rows: np.stack([rows % across, rows // across], 1))
