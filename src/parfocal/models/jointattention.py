"""Joint spatial and magnification attention (JSMA): one attention over places and magnifications.

Source: Zhang, Ma, Van Arnam, Gupta, Saltz, Vakalopoulou, Samaras, "A Joint Spatial and
    Magnification Based Attention Framework for Large Scale Histopathology Classification",
    CVPR-W 2021. No code is public.
Departs: estimates are unbiased, while the paper's Eq. 2 is biased; the default backbone is
    EfficientNet-Lite0, the paper's is `timm:inception_v3`. Cells without tissue get no attention.
    `ci_half_width`, `max_patches`, `max_seconds` and `skip_unavailable_magnifications` are future
    work in the paper. docs/methods.md lists what the paper leaves open and what we chose.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Bool, Float
from torch import Tensor, nn

from parfocal.bag import PixelSource
from parfocal.cells import Cells, lay_cells
from parfocal.models.choice import require_choice
from parfocal.models.contract import Loss
from parfocal.models.layers.attended_slide import AttendedSlide, tissue_mask
from parfocal.models.layers.backbone import Backbone
from parfocal.models.layers.passes import Passes, StepMemory
from parfocal.models.layers.sampled_patch_classifier import SampledPatchClassifier
from parfocal.models.layers.sampling import entropy
from parfocal.models.layers.sampling_config import SamplingConfig
from parfocal.models.layers.thumbnail import encode_thumbnails, request_thumbnail
from parfocal.prediction import Prediction

NORMALIZATIONS = ("sigmoid", "softmax")
TENSORS_PER_IMAGE = 3  # the images of a slide, of a batch, and their pixels


class JointAttention(nn.Module):
    """Classify slides by a few patches whose places and magnifications are sampled from attention.

    The attention is computed from a thumbnail of the slide.

    Args:
        num_classes: number of classes.
        magnifications: magnifications that patches can have, lowest first.
        patch_size: side of a patch in pixels, the same at every magnification.
        skip_unavailable_magnifications: whether magnifications that a slide does not have are
            skipped; if False, such a slide raises an error.
        backbone: network of the thumbnail and, with weights of its own, of the patches:
            "efficientnet-lite0", "efficientnet-lite0-stem", "small", "timm:NAME" or
            "timm:NAME=FILE".
        freeze_backbone: whether the weights of the backbones stay fixed during training.
        thumbnail_px: longer side of the thumbnail in pixels.
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
        normalize: how scores become attention: "sigmoid" divides the sigmoid of each score by the
            sum of all sigmoids; "softmax" is the alternative.
        attention_dropout: share of the patches that are dropped at random before sampling in a
            training step; at least k patches are kept.
        entropy_weight: weight of the attention's entropy in the objective.
        dropout: dropout rate before the classifier.
        gradient_checkpointing: whether activations of the backbones are always recomputed in the
            backward pass; if False, only if a batch does not fit into memory otherwise.
        generator: random number generator for sampling in training; None for the global one.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        magnifications: Sequence[float] = (5.0, 10.0, 20.0),
        patch_size: int = 299,
        skip_unavailable_magnifications: bool = False,
        backbone: str = "efficientnet-lite0",
        freeze_backbone: bool = False,
        thumbnail_px: int = 299,
        k: int = 5,
        estimator: str = "unbiased",
        inference: str = "sample",
        ci_half_width: float | None = None,
        max_patches: int | None = None,
        max_seconds: float | None = None,
        sampling_seed: int = 0,
        normalize: str = "sigmoid",
        attention_dropout: float = 0.2,
        entropy_weight: float = 0.01,
        dropout: float = 0.5,
        gradient_checkpointing: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require_choice("normalize", normalize, NORMALIZATIONS)
        self.magnifications, self.patch_size = tuple(magnifications), patch_size
        self.skip_unavailable_magnifications = skip_unavailable_magnifications
        self.thumbnail_px, self.normalize = thumbnail_px, normalize
        self.attention_dropout, self.entropy_weight = attention_dropout, entropy_weight
        self.generator = generator
        self.thumbnail_encoder = Backbone(backbone)
        patch_encoder = Backbone(backbone, images_per_slide=k)
        if freeze_backbone:
            self.thumbnail_encoder.requires_grad_(False)
            patch_encoder.requires_grad_(False)
        self.attention = nn.ModuleList(
            nn.Conv2d(self.thumbnail_encoder.dim, 1, 1) for _ in self.magnifications
        )
        self.patch_classifier = SampledPatchClassifier(
            patch_encoder,
            patch_encoder.dim,
            num_classes,
            patch_size=patch_size,
            sampling=SamplingConfig(
                k, estimator, inference, ci_half_width, max_patches, max_seconds, sampling_seed
            ),
            dropout=dropout,
            generator=generator,
        )
        self.gradient_checkpointing = gradient_checkpointing
        self.set_passes(Passes(None, gradient_checkpointing))

    @property
    def encoder(self) -> nn.Module:
        """Network that encodes a patch."""
        return self.patch_classifier.encoder

    def load_pretrained(self) -> None:
        """Load the published weights of the backbones.

        Raises:
            EncoderError: the weights cannot be loaded.
        """
        for backbone in self._backbones:
            backbone.load_pretrained()

    def set_passes(self, passes: Passes) -> None:
        """Set how the backbones are run on a batch of slides in training."""
        for backbone in self._backbones:
            backbone.set_passes(passes)

    def step_memory(self) -> StepMemory:
        """Measure the memory that the activations of a training step need."""
        thumbnail, patches = self._backbones
        networks = (
            thumbnail.memory(self.thumbnail_px, self.thumbnail_px),
            patches.memory(self.patch_size, self.patch_size),
        )
        pixels = self.thumbnail_px**2 + patches.images_per_slide * self.patch_size**2
        return StepMemory(networks, per_slide=TENSORS_PER_IMAGE * 4 * 3 * pixels)

    @property
    def _backbones(self) -> tuple[Backbone, Backbone]:
        assert isinstance(self.patch_classifier.encoder, Backbone)
        return self.thumbnail_encoder, self.patch_classifier.encoder

    def forward(self, sources: Sequence[PixelSource]) -> Prediction:
        """Classify slides, which may differ in size.

        Raises:
            GridError: a slide does not have one of the magnifications, or no tissue.
        """
        thumbnails = [request_thumbnail(source, self.thumbnail_px) for source in sources]
        cells = [self._lay_cells(source) for source in sources]
        device = self.patch_classifier.feature_mean.device
        tissues = [tissue_mask(*each).to(device) for each in zip(sources, cells, strict=True)]
        features = encode_thumbnails(self.thumbnail_encoder.feature_maps, thumbnails, device)
        attentions = [self._attend(*each) for each in zip(features, cells, tissues, strict=True)]
        dropped = [self._drop_cells(attention) for attention in attentions]
        slides = [
            AttendedSlide(*each) for each in zip(sources, cells, tissues, dropped, strict=True)
        ]
        entropies = torch.stack([entropy(attention) for attention in attentions])
        return Prediction.stack(self.patch_classifier(slides), {"entropy": entropies})

    def objective(self, prediction: Prediction, target: Tensor, loss: Loss) -> Float[Tensor, ""]:
        """Return the loss minus the weighted entropy of the attention before its dropout."""
        entropies = prediction.terms["entropy"]
        return loss(prediction.logits, target) - self.entropy_weight * entropies.mean()

    def _lay_cells(self, source: PixelSource) -> Cells:
        return lay_cells(
            source.size,
            source.mpp,
            magnifications=self.magnifications,
            patch_size=self.patch_size,
            skip_unavailable_magnifications=self.skip_unavailable_magnifications,
        )

    def _attend(
        self, h: Float[Tensor, "d i j"], cells: Cells, tissue: Bool[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Return the attention over the cells of all magnifications, from the thumbnail's map."""
        # The paper pools before the convolution. Both are linear, so the result is the same, and
        # one channel is cheaper to pool to the thousands of cells of a whole slide.
        maps = [
            F.adaptive_avg_pool2d(self.attention[level.step](h), level.shape).flatten()
            for level in cells.maps
        ]
        scores = torch.cat(maps)
        if self.normalize == "sigmoid":
            scores = F.logsigmoid(scores)  # its softmax is sigmoid / sum of sigmoids
        return scores.masked_fill(~tissue, float("-inf")).softmax(dim=0)

    def _drop_cells(self, attention: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Set the attention of random cells to 0 in training, and normalize again."""
        if not self.training or self.attention_dropout == 0:
            return attention
        kept = attention * self._dropout_mask(attention.detach() > 0)
        return kept / kept.sum()

    def _dropout_mask(self, available: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Return which cells to keep: at least as many as are sampled."""
        device = available.device if self.generator is None else self.generator.device
        noise = torch.rand(available.shape, device=device, generator=self.generator)
        noise = noise.to(available.device).masked_fill(~available, -1)
        kept = noise >= self.attention_dropout
        k = min(self.patch_classifier.sampling.k, int(available.sum()))
        kept[noise.topk(k).indices] = True
        return kept
