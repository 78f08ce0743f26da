"""Attention sampling (ATS): patches sampled from the attention over a thumbnail.

Source: Katharopoulos & Fleuret, "Processing Megapixel Images with Deep Attention-Sampling
    Models", ICML 2019. Code: idiap/attention-sampling.
Departs: the gradient of the attention is unbiased, while that of the code is biased; patches that
    extend beyond the image are moved inside, while the code pads with zeros; the patch network is
    one of our backbones. Cells without tissue get no attention.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import PixelSource
from parfocal.cells import Cells, center_cells
from parfocal.models.contract import Loss
from parfocal.models.layers.attended_slide import AttendedSlide, tissue_mask
from parfocal.models.layers.backbone import Backbone
from parfocal.models.layers.passes import NetworkMemory, Passes, StepMemory, kept_bytes
from parfocal.models.layers.sampled_patch_classifier import SampledPatchClassifier
from parfocal.models.layers.sampling import entropy
from parfocal.models.layers.sampling_config import SamplingConfig
from parfocal.models.layers.thumbnail import encode_thumbnails, request_thumbnail
from parfocal.prediction import Prediction

TENSORS_PER_IMAGE = 3  # the images of a slide, of a batch, and their pixels
TENSORS_PER_CELL = 20  # positions, tissue, attention and noise of a cell, and gradients
WORKING_TENSORS = 3  # gradients as large as the largest activation that exist at the same time


class AttentionSampling(nn.Module):
    """Classify slides by a few patches of one magnification, sampled from attention.

    The attention is computed from a thumbnail of the slide. Each pixel of the thumbnail is the
    center of a cell.

    Args:
        num_classes: number of classes.
        magnifications: magnification of the patches; exactly one.
        patch_size: side of a patch in pixels.
        backbone: network of the patches: "efficientnet-lite0", "efficientnet-lite0-stem",
            "small", "timm:NAME" or "timm:NAME=FILE".
        thumbnail_px: longer side of the thumbnail in pixels.
        attention_widths: channels of the attention network's convolutions, without the last.
        attention_smoothing: share of the attention that is distributed uniformly over all cells.
        k: number of patches to sample per slide.
        estimator: how the features of the sampled patches estimate those of all: "unbiased";
            "with_replacement", also unbiased but with more variance; "partial_sum" (Eq. 2 of
            JSMA) or "renormalized", both biased; "published_gradient" (the code of attention
            sampling), whose attention gradient is biased.
        inference: which patches are encoded after training: "sample" samples k patches; "topk"
            takes the k patches of highest attention; "all" takes all patches.
        ci_half_width: after training, sample patches until the 95% confidence interval of the
            predicted class's probability has at most this half-width; None to sample k patches.
        max_patches: maximum number of patches per slide in adaptive sampling; None for no limit.
        max_seconds: maximum time per slide for adaptive sampling, in seconds; None for no limit.
        sampling_seed: random seed for sampling after training, the same for every slide.
        normalize_features: whether the features of each patch are scaled to unit length.
        entropy_weight: weight of the attention's entropy in the objective.
        dropout: dropout rate before the classifier.
        gradient_checkpointing: whether activations of the networks are always recomputed in the
            backward pass; if False, only if a batch does not fit into memory otherwise.
        generator: random number generator for sampling in training; None for the global one.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        magnifications: Sequence[float] = (10.0,),
        patch_size: int = 50,
        backbone: str = "small",
        thumbnail_px: int = 180,
        attention_widths: Sequence[int] = (8, 8),
        attention_smoothing: float = 1e-5,
        k: int = 10,
        estimator: str = "unbiased",
        inference: str = "sample",
        ci_half_width: float | None = None,
        max_patches: int | None = None,
        max_seconds: float | None = None,
        sampling_seed: int = 0,
        normalize_features: bool = True,
        entropy_weight: float = 1e-4,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(magnifications) != 1:
            raise ValueError(
                f"magnifications={list(magnifications)}: attention sampling reads patches of one "
                "magnification; set exactly one."
            )
        self.magnification, self.patch_size = magnifications[0], patch_size
        self.thumbnail_px, self.attention_smoothing = thumbnail_px, attention_smoothing
        self.entropy_weight = entropy_weight
        self.attention = _attention_network(attention_widths)
        patch_encoder = Backbone(backbone, images_per_slide=k)
        self.patch_classifier = SampledPatchClassifier(
            patch_encoder,
            patch_encoder.dim,
            num_classes,
            patch_size=patch_size,
            sampling=SamplingConfig(
                k, estimator, inference, ci_half_width, max_patches, max_seconds, sampling_seed
            ),
            dropout=dropout,
            normalize_features=normalize_features,
            generator=generator,
        )
        self.gradient_checkpointing = gradient_checkpointing
        self.set_passes(Passes(None, gradient_checkpointing))

    @property
    def encoder(self) -> nn.Module:
        """Network that encodes a patch."""
        return self.patch_classifier.encoder

    def load_pretrained(self) -> None:
        """Load the published weights of the patch backbone, if it has any.

        Raises:
            EncoderError: the weights cannot be loaded.
        """
        self._backbone.load_pretrained()

    def set_passes(self, passes: Passes) -> None:
        """Set how the two networks are run on a batch of slides in training."""
        self.passes = passes
        self._backbone.set_passes(passes)

    def step_memory(self) -> StepMemory:
        """Measure the memory that the activations of a training step need."""
        side = self.thumbnail_px
        thumbnail = self.patch_classifier.feature_mean.new_zeros(1, 3, side, side)
        kept, largest = kept_bytes(lambda: self.attention(thumbnail))
        networks = (
            NetworkMemory(kept, WORKING_TENSORS * largest),
            self._backbone.memory(self.patch_size, self.patch_size),
        )
        pixels = side**2 + self._backbone.images_per_slide * self.patch_size**2
        cells = TENSORS_PER_CELL * side**2
        return StepMemory(networks, per_slide=4 * (TENSORS_PER_IMAGE * 3 * pixels + cells))

    @property
    def _backbone(self) -> Backbone:
        assert isinstance(self.patch_classifier.encoder, Backbone)
        return self.patch_classifier.encoder

    def forward(self, sources: Sequence[PixelSource]) -> Prediction:
        """Classify slides, which may differ in size.

        Raises:
            GridError: a slide does not have the magnification, or no tissue.
        """
        thumbnails = [request_thumbnail(source, self.thumbnail_px) for source in sources]
        device = self.patch_classifier.feature_mean.device
        maps = encode_thumbnails(self._encode_thumbnails, thumbnails, device)
        slides = [self._attend(*each) for each in zip(sources, maps, strict=True)]
        entropies = torch.stack([entropy(slide.attention) for slide in slides])
        return Prediction.stack(self.patch_classifier(slides), {"entropy": entropies})

    def objective(self, prediction: Prediction, target: Tensor, loss: Loss) -> Float[Tensor, ""]:
        """Return the loss minus the weighted entropy of the attention."""
        entropies = prediction.terms["entropy"]
        return loss(prediction.logits, target) - self.entropy_weight * entropies.mean()

    def _encode_thumbnails(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
        """Return a score for each pixel."""
        return self.passes.run(self.attention, images, images_per_slide=1)

    def _attend(self, source: PixelSource, scores: Float[Tensor, "1 h w"]) -> AttendedSlide:
        """Center a cell on each pixel of a thumbnail, and normalize the scores of the cells."""
        cells = Cells(
            (
                center_cells(
                    source.size,
                    source.mpp,
                    magnification=self.magnification,
                    patch_size=self.patch_size,
                    shape=(scores.shape[1], scores.shape[2]),
                ),
            )
        )
        tissue = tissue_mask(source, cells).to(scores.device)
        attention = scores.flatten().masked_fill(~tissue, float("-inf")).softmax(dim=0)
        smoothed = attention.lerp(tissue / tissue.sum(), self.attention_smoothing)
        return AttendedSlide(source, cells, tissue, smoothed)


def _attention_network(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for in_dim, dim in pairwise((3, *widths)):
        layers += [nn.Conv2d(in_dim, dim, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1] if widths else 3, 1, 3, padding=1))
