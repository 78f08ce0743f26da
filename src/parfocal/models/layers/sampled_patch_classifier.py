"""Classify slides by sampling cells from attention, and encoding the patches of these cells.

Joint attention and attention sampling share this part; they differ in how attention is computed.

Source: see `parfocal.models.layers.sampling`.
Departs: after training, cells can be sampled until the prediction is precise enough, or until a
    limit on patches or time is reached.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from parfocal.models.layers.attended_slide import AttendedSlide, PendingPatches
from parfocal.models.layers.sampling import aggregate, running_estimates, sample_cells
from parfocal.models.layers.sampling_config import SamplingConfig
from parfocal.models.layers.shared_norm import Total
from parfocal.prediction import Prediction

ENCODE_BATCH_SIZE = 16  # patches per batch after training; larger batches are slower on a CPU
FEATURE_MEAN_MOMENTUM = 0.05
NORMAL_95 = 1.96  # half-width of a 95% confidence interval, in standard errors


class SampledPatchClassifier(nn.Module):
    """Classify slides by the patches of cells that are sampled from attention.

    Args:
        encoder: network that encodes a patch.
        dim: number of features that `encoder` returns per patch.
        num_classes: number of classes.
        patch_size: side of a patch in pixels.
        sampling: how cells are sampled.
        dropout: dropout rate of the aggregated features.
        normalize_features: whether the features of each patch are scaled to unit length.
        generator: random number generator for sampling in training; None for the global one.
    """

    feature_mean: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        dim: int,
        num_classes: int,
        *,
        patch_size: int,
        sampling: SamplingConfig,
        dropout: float = 0.5,
        normalize_features: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.patch_size, self.sampling = encoder, patch_size, sampling
        self.normalize_features, self.generator = normalize_features, generator
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, num_classes))
        # Set if several processes hold the slides of a batch; see `share_statistics`.
        self.batch_total: Callable[[], Total] | None = None
        # Running mean over training slides, which lowers the variance of the gradient.
        self.register_buffer("feature_mean", torch.zeros(dim))

    def forward(self, slides: Sequence[AttendedSlide]) -> list[Prediction]:
        """Return one prediction per slide."""
        if self.training:
            return self._forward_train(slides)
        forward = self._forward_adaptive if self.sampling.adaptive else self._forward_fixed
        return [forward(slide) for slide in slides]

    def _forward_train(self, slides: Sequence[AttendedSlide]) -> list[Prediction]:
        """Sample cells of all slides, and encode their patches as one batch."""
        samples = [self._sample(slide, self.generator) for slide in slides]
        pending = [
            slide.request(sampled, self.patch_size)
            for slide, sampled in zip(slides, samples, strict=True)
        ]
        images = torch.cat([patches.images() for patches in pending])
        parts = torch.split(self._encode(images), [len(sampled) for sampled in samples])
        predictions = [
            self._predict(slide, sampled, features)
            for slide, sampled, features in zip(slides, samples, parts, strict=True)
        ]
        means = torch.cat([part.detach().mean(dim=0, keepdim=True) for part in parts])  # b d
        self.feature_mean.lerp_(
            self._batch_mean(means).to(self.feature_mean), FEATURE_MEAN_MOMENTUM
        )
        return predictions

    def _batch_mean(self, means: Float[Tensor, "b d"]) -> Float[Tensor, " d"]:
        """Return the mean over the slides of the batch, those of other processes included."""
        if self.batch_total is None:
            return means.mean(dim=0)
        count = means.new_tensor([len(means)])
        sums = self.batch_total()(torch.cat([means.sum(dim=0), count]))
        return sums[:-1] / sums[-1]

    def _forward_fixed(self, slide: AttendedSlide) -> Prediction:
        """Classify a slide by a fixed number of cells."""
        if self.sampling.inference == "all":
            sampled = slide.attention.nonzero().flatten()
        elif self.sampling.inference == "topk":
            sampled = slide.attention.topk(min(self.sampling.k, slide.num_available)).indices
        else:
            sampled = self._sample(slide, self._seeded_generator())
        return self._predict(slide, sampled, self._read_and_encode(slide, sampled))

    def _forward_adaptive(self, slide: AttendedSlide) -> Prediction:
        """Sample k cells at a time until the prediction is precise enough or a limit is reached."""
        started, limit = time.perf_counter(), self.sampling.max_patches or slide.num_available
        order = sample_cells(
            slide.attention,
            min(limit, slide.num_available),
            generator=self._seeded_generator(),
        )
        features = self.feature_mean[None][:0]
        reason = _limit_reason(len(order), slide.num_available)
        for part in torch.split(order, self.sampling.k):
            features = torch.cat([features, self._read_and_encode(slide, part)])
            sampled = order[: len(features)]
            if len(sampled) == len(order):
                break
            if (converged := self._convergence(slide.attention[sampled], features)) is not None:
                reason = converged
                break
            seconds = self.sampling.max_seconds
            if seconds is not None and time.perf_counter() - started >= seconds:
                reason = f"the limit of {seconds:g} seconds was reached"
                break
        return self._predict(slide, sampled, features, reason)

    def _convergence(
        self, attention: Float[Tensor, " k"], features: Float[Tensor, "k d"]
    ) -> str | None:
        """Return the stop reason if the predicted probability is precise enough, else None."""
        if self.sampling.ci_half_width is None or len(features) < 2:
            return None
        logits = self.classifier(running_estimates(attention, features))
        half_width = NORMAL_95 * jackknife_error(logits)
        if half_width > self.sampling.ci_half_width:
            return None
        return f"converged: the probability is known to ±{half_width:.2g} with 95% confidence"

    def _sample(
        self, slide: AttendedSlide, generator: torch.Generator | None
    ) -> Int64[Tensor, " k"]:
        k = self.sampling.k
        if self.sampling.estimator == "with_replacement":
            return sample_cells(slide.attention, k, replacement=True, generator=generator)
        return sample_cells(slide.attention, min(k, slide.num_available), generator=generator)

    def _seeded_generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.sampling.seed)

    def _read_and_encode(
        self, slide: AttendedSlide, sampled: Int64[Tensor, " k"]
    ) -> Float[Tensor, "k d"]:
        """Read and encode patches batch by batch; the next batch is read during encoding."""
        batches = _request_ahead(
            slide.request(part, self.patch_size) for part in torch.split(sampled, ENCODE_BATCH_SIZE)
        )
        return torch.cat([self._encode(batch.images()) for batch in batches])

    def _encode(self, images: Float[Tensor, "n 3 p p"]) -> Float[Tensor, "n d"]:
        features: Tensor = self.encoder(images.to(self.feature_mean.device))
        return nn.functional.normalize(features) if self.normalize_features else features

    def _predict(
        self,
        slide: AttendedSlide,
        sampled: Int64[Tensor, " k"],
        features: Float[Tensor, "k d"],
        reason: str | None = None,
    ) -> Prediction:
        """Aggregate the features of the sampled cells and classify."""
        estimator = self.sampling.estimator
        if len(sampled) == slide.num_available and estimator != "with_replacement":
            estimator = "partial_sum"  # over all cells, so it is exact
        elif not self.training and self.sampling.inference == "topk":
            estimator = "renormalized"
        aggregated = aggregate(
            slide.attention, sampled, features, estimator=estimator, center=self.feature_mean
        )
        logits = self.classifier(aggregated)
        return Prediction(
            logits,
            slide.looks(sampled),
            reason or _limit_reason(len(sampled), slide.num_available),
            self._running_probabilities(slide.attention[sampled], features, logits),
        )

    def _running_probabilities(
        self,
        attention: Float[Tensor, " k"],
        features: Float[Tensor, "k d"],
        logits: Float[Tensor, " c"],
    ) -> Float[Tensor, "k c"] | None:
        """Return the class probabilities after each patch; None for other estimators."""
        if self.training or (self.sampling.estimator, self.sampling.inference) != (
            "unbiased",
            "sample",
        ):
            return None
        estimates = running_estimates(attention, features)
        count = torch.arange(1, len(features) + 1, device=features.device)[:, None]
        running = self.classifier(estimates.cumsum(dim=0) / count)
        return torch.cat([running[:-1], logits[None]]).softmax(dim=1).detach().cpu()


def jackknife_error(logits: Float[Tensor, "n c"]) -> float:
    """Return the jackknife standard error of the predicted class's probability.

    The probability is the softmax of the mean logits.

    Args:
        logits: uncorrelated estimates of the logits, at least 2.
    """
    n = len(logits)
    without_each = (logits.sum(dim=0) - logits) / (n - 1)
    predicted = logits.mean(dim=0).argmax()
    probability = without_each.double().softmax(dim=1)[:, predicted]
    return float(((n - 1) * probability.var(correction=0)).sqrt())


def _limit_reason(num_sampled: int, num_available: int) -> str:
    if num_sampled >= num_available:
        return f"all {num_available} cells with attention were visited"
    return f"the limit of {num_sampled} patches was reached"


def _request_ahead(requests: Iterator[PendingPatches]) -> Iterator[PendingPatches]:
    """Yield requests, each after the one that follows it has been made."""
    current = next(requests)
    for following in requests:
        yield current
        current = following
    yield current
