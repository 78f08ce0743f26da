"""How fast this machine is, from a slide that is painted for it: what a plan is reckoned from."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor, nn

from parfocal.bag import Bag, Look, PixelSource, StoredBag, run_model
from parfocal.compare import Candidate
from parfocal.encoders.encoder import Encoder, load_encoder
from parfocal.features.header import SlideSettings
from parfocal.features.live import PatchEncoder, reading_threads
from parfocal.features.slide_input import opened
from parfocal.models.checkpoint import build_model
from parfocal.reproduce.experiments import Picture
from parfocal.settings import EncoderSettings, RunSettings
from parfocal.slide.slide import open_slide
from parfocal.slide.write import write_pyramid

SIDE_PX, MPP = 4096, 0.25  # of the painted slide, where the set's own size is not told
ENCODED = 16  # patches
# Weights have no part in speed, and these are always to be had.
MEASURED_AS = {"resnet50-layer3": "resnet50-layer3-random"}


@dataclass(frozen=True)
class Encoding:
    """What encoding takes.

    Args:
        features: of a patch.
        seconds: for a patch, reading it included.
    """

    features: int
    seconds: float


@dataclass(frozen=True)
class Learning:
    """What a step of training takes.

    Args:
        patches: looked at.
        seconds: for a slide, reading it included unless its features are stored.
        weights: of the model, in bytes.
    """

    patches: int
    seconds: float
    weights: int


@contextmanager
def painted_slide(image: Picture | None) -> Iterator[Path]:
    """Give a slide of colored noise, all of it tissue, for as long as the block.

    Args:
        image: whose size it has; None for a slide of 1 mm at 40x.
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
) -> Encoding:
    """Encode a few patches.

    Args:
        settings: of the encoder.
        slide_settings: the patches, of which those of the highest magnification are encoded.
        painted: a slide of them.
        device: where it is done.

    Raises:
        EncoderError: the encoder cannot be had.
    """
    encoder = load_encoder(
        MEASURED_AS.get(settings.name, settings.name),
        device=device,
        weights=settings.weights,
        runtime=settings.runtime,
    )
    highest = slide_settings.magnifications[-1:]
    whole = SlideSettings(highest, slide_settings.patch_size, tissue="all")
    with open_slide(painted) as slide:
        patches = PatchEncoder(slide, whole.grid(slide), encoder, reading_threads())
        return Encoding(encoder.spec.dim, _each(patches, encoder))


def _each(patches: PatchEncoder, encoder: Encoder) -> float:
    """Give the seconds of a patch, the first batch apart, which warms up."""
    rows = np.arange(min(encoder.batch + max(encoder.batch, ENCODED), patches.grid.counts[0]))
    batches = patches.encode(0, rows)
    first, _ = next(batches)
    start = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - start) / max(1, len(rows) - len(first))


def time_learning(
    candidate: Candidate,
    *,
    in_dim: int,
    num_classes: int,
    sharpest: float | None,
    painted: Path,
    device: str,
) -> Learning:
    """Take a step of training on one slide: the answer and its gradient, twice on a GPU.

    Args:
        candidate: the model.
        in_dim: features of a patch.
        num_classes: of the set.
        sharpest: patches of a slide at the highest magnification; None for a model of pixels.
        painted: a slide for one of these.
        device: where it is done.
    """
    arguments = candidate.settings.model_arguments(
        in_dim=in_dim, num_classes=num_classes, num_slides=1
    )
    model = build_model(candidate.settings.model.name, arguments).to(device).train()
    for _ in range(2 if device.startswith("cuda") else 1):
        start = time.perf_counter()
        with _given(candidate.settings, in_dim, sharpest, painted, device) as given:
            patches = _learn(model, given)
        seconds = time.perf_counter() - start
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return Learning(patches, seconds, weights)


@contextmanager
def _given(
    settings: RunSettings, in_dim: int, sharpest: float | None, painted: Path, device: str
) -> Iterator[Bag | PixelSource]:
    """Give random features, or the painted slide's pixels."""
    if sharpest is not None:
        yield random_bag(settings.slide.magnifications, in_dim, sharpest, device)
        return
    with (
        open_slide(painted) as slide,
        opened(
            slide,
            settings.slide,
            None,
            skip_unavailable_magnifications=settings.model.skip_unavailable_magnifications,
        ) as opened_slide,
    ):
        yield opened_slide.given


def _learn(model: nn.Module, given: Bag | PixelSource) -> int:
    """Take a step on one slide, of whatever class; give how many patches were looked at."""
    prediction = run_model(model, [given])
    logits = prediction.logits.view(1, -1)
    loss: Tensor = F.cross_entropy(logits, torch.zeros(1, dtype=torch.int64, device=logits.device))
    loss.backward()  # type: ignore[no-untyped-call]
    if logits.is_cuda:
        torch.cuda.synchronize()
    return sum(_looked_at(look) for look in prediction.slides[0].looks)


def _looked_at(look: Look) -> int:
    order = None if look.places is None else look.places.order
    return len(look.rows) if order is None else int((order >= 0).sum())


def random_bag(
    magnifications: Sequence[float], in_dim: int, sharpest: float, device: str
) -> StoredBag:
    """Make a bag of random features with so many patches at the highest magnification."""
    ratios = [round(each / magnifications[0]) ** 2 for each in magnifications]
    lowest = max(1, round(sharpest / ratios[-1]))
    levels = [torch.randn(lowest * ratio, in_dim, device=device) for ratio in ratios]
    across = max(1, round(len(levels[-1]) ** 0.5))
    return StoredBag(levels, cells=lambda _, rows: np.stack([rows % across, rows // across], 1))
