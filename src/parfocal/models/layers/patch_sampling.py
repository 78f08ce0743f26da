"""From attention over cells to an answer: draw cells, read their patches, encode, aggregate.

What joint attention and attention sampling share; they differ in where attention comes from.

Source: as `parfocal.models.layers.sampling`.
Departs: after training, cells may be drawn until the answer is settled or a budget is spent.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from parfocal.bag import Look, PixelSource, Places, Prediction
from parfocal.cells import Cells
from parfocal.grid import ANY_TISSUE, GridError
from parfocal.models.layers.sampling import ESTIMATORS, aggregate, draw, running_estimates

INFERENCES = ("sample", "topk", "all")
AT_ONCE = 16  # patches encoded together after training: on a CPU more are slower
CENTER_MOMENTUM = 0.05
NORMAL_95 = 1.96


@dataclass(frozen=True)
class SamplingConfig:
    """How cells are drawn.

    Args:
        k: how many, or as many as have attention.
        estimator: see `aggregate`.
        inference: after training, "sample" draws k; "topk" takes the k of most attention,
            weighted by it; "all" takes all, which is what the others estimate.
        ci_half_width: after training, draw on until the winner's probability is known to this, more or
            less, with 95% confidence; None to draw k.
        max_patches: stop there, settled or not.
        max_seconds: likewise.
        seed: of the draws after training, the same for every slide.

    Raises:
        ValueError: an argument is none of those allowed.
    """

    k: int = 5
    estimator: str = "unbiased"
    inference: str = "sample"
    ci_half_width: float | None = None
    max_patches: int | None = None
    max_seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator={self.estimator!r} is unknown; it is one of {ESTIMATORS}.")
        if self.inference not in INFERENCES:
            raise ValueError(f"inference={self.inference!r} is unknown; it is one of {INFERENCES}.")
        if self.k < 1:
            raise ValueError(f"k={self.k}: at least 1 patch is looked at.")
        drawn_on = self.ci_half_width, self.max_patches, self.max_seconds
        if any(limit is not None and limit <= 0 for limit in drawn_on):
            raise ValueError(
                f"ci_half_width={self.ci_half_width}, max_patches={self.max_patches}, max_seconds="
                f"{self.max_seconds}: give numbers above 0, or leave them out."
            )
        if self.draws_on and (self.estimator, self.inference) != ("unbiased", "sample"):
            raise ValueError(
                "ci_half_width, max_patches and max_seconds go with estimator unbiased and inference "
                f"sample, not {self.estimator} and {self.inference}."
            )

    @property
    def draws_on(self) -> bool:
        """Whether the number of patches is chosen slide by slide."""
        return (self.ci_half_width, self.max_patches, self.max_seconds) != (None, None, None)


@dataclass(frozen=True)
class AttendedSlide:
    """One slide, its cells, and the attention on them.

    Args:
        source: of the pixels.
        cells: where they lie.
        tissue: False where there is none, and so no attention.
        attention: sums to 1.
    """

    source: PixelSource
    cells: Cells
    tissue: Bool[Tensor, " n"]
    attention: Float[Tensor, " n"]

    @property
    def live(self) -> int:
        """How many cells have attention."""
        return int(self.attention.count_nonzero())

    def request(self, drawn: Int64[Tensor, " k"], patch_size: int) -> "Asked":
        """Begin to read the patches of cells, and return at once."""
        steps, boxes = self.cells.steps[drawn.cpu()], self.cells.boxes[drawn.cpu()]
        waiting = []
        for step in sorted(set(steps.tolist())):
            (at,) = (steps == step).nonzero(as_tuple=True)
            pixels = self.source.request(boxes[at], (patch_size, patch_size), step=step)
            waiting.append((at, pixels))
        return Asked(len(drawn), patch_size, tuple(waiting))


@dataclass(frozen=True)
class Asked:
    """Patches that are being read, magnification by magnification."""

    count: int
    patch_size: int
    waiting: tuple[tuple[Int64[Tensor, " _"], Future[Tensor]], ...]

    def images(self) -> Float[Tensor, "k 3 p p"]:
        """Wait for the patches, and give them in the order drawn, in 0 to 1."""
        images = torch.empty(self.count, 3, self.patch_size, self.patch_size)
        for at, pixels in self.waiting:
            images[at] = pixels.result().float() / 255
        return images


class SampledPatchClassifier(nn.Module):
    """Answers from the patches of cells that are drawn by attention.

    Args:
        encode: the patch backbone.
        dim: of its features.
        num_classes: slide labels.
        patch_size: side of a patch in pixels.
        drawing: how cells are drawn.
        dropout: of the aggregated features, in training.
        unit_length: scale the features of each patch to length 1.
        gradient_checkpointing: compute activations again going back, to save memory.
        generator: of the draws in training; None for torch's own.
    """

    center: Tensor

    def __init__(
        self,
        encode: nn.Module,
        dim: int,
        num_classes: int,
        *,
        patch_size: int,
        drawing: SamplingConfig,
        dropout: float = 0.5,
        unit_length: bool = False,
        gradient_checkpointing: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.encode, self.patch_size, self.drawing = encode, patch_size, drawing
        self.unit_length, self.gradient_checkpointing, self.generator = (
            unit_length,
            gradient_checkpointing,
            generator,
        )
        self.classify = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, num_classes))
        # Where features lie, of other slides: it lowers the variance of the gradient.
        self.register_buffer("center", torch.zeros(dim))

    def forward(self, scenes: Sequence[AttendedSlide]) -> list[Prediction]:
        """Classify slides by some of their patches."""
        if self.training:
            return self._forward_train(scenes)
        answer = self._forward_adaptive if self.drawing.draws_on else self._forward_fixed
        return [answer(scene) for scene in scenes]

    def _forward_train(self, scenes: Sequence[AttendedSlide]) -> list[Prediction]:
        """Draw cells of all slides, and encode their patches together."""
        drawns = [self._draw(scene, self.generator) for scene in scenes]
        asked = [
            scene.request(drawn, self.patch_size)
            for scene, drawn in zip(scenes, drawns, strict=True)
        ]
        images = torch.cat([each.images() for each in asked])
        parts = torch.split(self._encoded(images), [len(drawn) for drawn in drawns])
        answers = [
            self._answer(scene, drawn, features)
            for scene, drawn, features in zip(scenes, drawns, parts, strict=True)
        ]
        mean = torch.cat([part.detach().mean(dim=0, keepdim=True) for part in parts]).mean(dim=0)
        self.center.lerp_(mean.to(self.center), CENTER_MOMENTUM)
        return answers

    def _forward_fixed(self, scene: AttendedSlide) -> Prediction:
        if self.drawing.inference == "all":
            drawn = scene.attention.nonzero().flatten()
        elif self.drawing.inference == "topk":
            drawn = scene.attention.topk(min(self.drawing.k, scene.live)).indices
        else:
            drawn = self._draw(scene, self._seeded())
        return self._answer(scene, drawn, self._read(scene, drawn))

    def _forward_adaptive(self, scene: AttendedSlide) -> Prediction:
        """Draw k cells after k cells until the answer is settled, or a budget is spent."""
        started, limit = time.perf_counter(), self.drawing.max_patches or scene.live
        order = draw(scene.attention, min(limit, scene.live), generator=self._seeded())
        features = self.center[None][:0]
        reason = _spent(len(order), scene.live)
        for part in torch.split(order, self.drawing.k):
            features = torch.cat([features, self._read(scene, part)])
            drawn = order[: len(features)]
            if len(drawn) == len(order):
                break
            if (found := self._settled(scene.attention[drawn], features)) is not None:
                reason = found
                break
            seconds = self.drawing.max_seconds
            if seconds is not None and time.perf_counter() - started >= seconds:
                reason = f"the {seconds:g} seconds allowed are spent"
                break
        return self._answer(scene, drawn, features, reason)

    def _settled(
        self, attention: Float[Tensor, " k"], features: Float[Tensor, "k d"]
    ) -> str | None:
        """Say how well the winner's probability is known, where that is well enough."""
        if self.drawing.ci_half_width is None or len(features) < 2:
            return None
        within = NORMAL_95 * jackknife_error(self.classify(running_estimates(attention, features)))
        if within > self.drawing.ci_half_width:
            return None
        return f"settled: the winner's probability is known to ±{within:.2g}"

    def _draw(self, scene: AttendedSlide, generator: torch.Generator | None) -> Int64[Tensor, " k"]:
        if self.drawing.estimator == "replacement":
            return draw(scene.attention, self.drawing.k, replacement=True, generator=generator)
        return draw(scene.attention, min(self.drawing.k, scene.live), generator=generator)

    def _seeded(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.drawing.seed)

    def _read(self, scene: AttendedSlide, drawn: Int64[Tensor, " k"]) -> Float[Tensor, "k d"]:
        """Read and encode patches part by part, the next being read while one is encoded."""
        asked = _one_ahead(
            scene.request(part, self.patch_size) for part in torch.split(drawn, AT_ONCE)
        )
        return torch.cat([self._encoded(each.images()) for each in asked])

    def _encoded(self, images: Float[Tensor, "n 3 p p"]) -> Float[Tensor, "n d"]:
        images = images.to(self.center.device)
        if self.training and self.gradient_checkpointing:
            features: Tensor = checkpoint(self.encode, images, use_reentrant=False)
        else:
            features = self.encode(images)
        return nn.functional.normalize(features) if self.unit_length else features

    def _answer(
        self,
        scene: AttendedSlide,
        drawn: Int64[Tensor, " k"],
        features: Float[Tensor, "k d"],
        reason: str | None = None,
    ) -> Prediction:
        """Aggregate features and classify; of all cells there are, exactly."""
        estimator = self.drawing.estimator
        if len(drawn) == scene.live and estimator != "replacement":
            estimator = "literal"  # the whole sum
        elif not self.training and self.drawing.inference == "topk":
            estimator = "renormalized"
        slide = aggregate(scene.attention, drawn, features, estimator=estimator, center=self.center)
        logits = self.classify(slide)
        return Prediction(
            logits,
            looks_of(scene, drawn),
            reason or _spent(len(drawn), scene.live),
            self._running(scene.attention[drawn], features, logits),
        )

    def _running(
        self,
        attention: Float[Tensor, " k"],
        features: Float[Tensor, "k d"],
        logits: Float[Tensor, " c"],
    ) -> Float[Tensor, "k c"] | None:
        """Give the answer after each patch, where its estimate is the mean of those so far."""
        asked = self.drawing.estimator, self.drawing.inference
        if self.training or asked != ("unbiased", "sample"):
            return None
        estimates = running_estimates(attention, features)
        seen = torch.arange(1, len(features) + 1, device=features.device)[:, None]
        said = self.classify(estimates.cumsum(dim=0) / seen)
        return torch.cat([said[:-1], logits[None]]).softmax(dim=1).detach().cpu()


def tissue_of(source: PixelSource, cells: Cells) -> Bool[Tensor, " n"]:
    """Tell which cells have tissue.

    Raises:
        GridError: none has.
    """
    tissue = source.tissue(cells.boxes) > ANY_TISSUE
    if not tissue.any():
        raise GridError("no cell has any tissue; check how tissue is found (slide.tissue).")
    return tissue


def jackknife_error(logits: Float[Tensor, "n c"]) -> float:
    """Give the standard error of the winner's probability, of the mean of uncorrelated logits."""
    n = len(logits)
    without_each = (logits.sum(dim=0) - logits) / (n - 1)
    winner = logits.mean(dim=0).argmax()
    probability = without_each.double().softmax(dim=1)[:, winner]
    return float(((n - 1) * probability.var(correction=0)).sqrt())


def looks_of(scene: AttendedSlide, drawn: Int64[Tensor, " k"]) -> tuple[Look, ...]:
    """Tell where a model could look, and where it did, magnification by magnification."""
    cells, attention, tissue = scene.cells, scene.attention.detach().cpu(), scene.tissue.cpu()
    order = torch.full((len(attention),), -1)
    order[drawn.cpu().flip(0)] = torch.arange(len(drawn)).flip(0)  # the first time, where repeated
    looks, first = [], 0
    for level in cells.maps:
        here = slice(first, first := first + len(level.boxes))
        (rows,) = tissue[here].nonzero(as_tuple=True)
        turn = order[here][rows]
        mpps = torch.full((len(rows),), level.mpp, dtype=torch.float64)
        places = Places(level.boxes[rows], mpps, order=turn)
        (selected,) = (turn >= 0).nonzero(as_tuple=True)
        looks.append(
            Look(rows, attention[here][rows], selected, places=places, score_kind="probability")
        )
    return tuple(looks)


def _spent(drawn: int, live: int) -> str:
    if drawn >= live:
        return f"all {live} cells with attention looked at"
    return f"the {drawn} patches allowed are drawn"


def _one_ahead(asked: Iterator[Asked]) -> Iterator[Asked]:
    """Ask for the next before one is waited for."""
    ahead = next(asked)
    for following in asked:
        yield ahead
        ahead = following
    yield ahead
