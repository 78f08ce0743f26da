"""Joint spatial and magnification attention (JSMA): one attention over places and magnifications.

Source: Zhang, Ma, Van Arnam, Gupta, Saltz, Vakalopoulou, Samaras, "A Joint Spatial and
    Magnification Based Attention Framework for Large Scale Histopathology Classification",
    CVPR-W 2021. No code is public.
Departs: estimates are unbiased, where the paper's Eq. 2 is not; the backbones are by default
    EfficientNet-Lite0, the paper's `timm:inception_v3`. Cells without tissue get no attention.
    `ci_half_width`, `max_patches`, `max_seconds` and `skip_unavailable_magnifications` are what the paper leaves to the future.
    docs/methods.md lists what it leaves open and what was chosen.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.bag import PixelSource, Prediction
from parfocal.cells import Cells, lay_cells
from parfocal.models.layers.backbone import Backbone
from parfocal.models.layers.overview import ask_overview, encode_overviews
from parfocal.models.layers.patch_sampling import (
    AttendedSlide,
    SampledPatchClassifier,
    SamplingConfig,
    tissue_of,
)
from parfocal.models.layers.sampling import entropy

NORMALIZATIONS = ("sigmoid", "softmax")


class JointAttention(nn.Module):
    """Classify slides by a few patches, of places and magnifications chosen from a thumbnail.

    Args:
        num_classes: slide labels.
        magnifications: that patches may have, lowest first.
        patch_size: side of a patch in pixels, the same at every magnification.
        skip_unavailable_magnifications: whether magnifications that do not fit a slide are left out, or an error.
        backbone: of the thumbnail and of the patches, one each; see `Backbone`.
        frozen: keep the backbones as they are published, and train what is on top of them.
        thumbnail_px: longer side of the thumbnail.
        k: patches drawn.
        estimator: of the aggregated features; see `aggregate`.
        inference: what is looked at after training, "sample", "topk" or "all"; see `SamplingConfig`.
        ci_half_width: see `SamplingConfig`, as the next three.
        max_patches: likewise.
        max_seconds: likewise.
        seed: likewise.
        normalize: "sigmoid" divides each cell's sigmoid by their sum; or "softmax".
        attention_dropout: share of cells that cannot be drawn, in training; k always can.
        alpha: how much entropy of the attention is worth in the objective.
        dropout: before the classifier, in training.
        gradient_checkpointing: compute activations of patches again going back, to save memory.
        generator: of the draws in training; None for torch's own.

    Raises:
        ValueError: an argument is none of those allowed.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        magnifications: Sequence[float] = (5.0, 10.0, 20.0),
        patch_size: int = 299,
        skip_unavailable_magnifications: bool = False,
        backbone: str = "efficientnet-lite0",
        frozen: bool = False,
        thumbnail_px: int = 299,
        k: int = 5,
        estimator: str = "unbiased",
        inference: str = "sample",
        ci_half_width: float | None = None,
        max_patches: int | None = None,
        max_seconds: float | None = None,
        seed: int = 0,
        normalize: str = "sigmoid",
        attention_dropout: float = 0.2,
        alpha: float = 0.01,
        dropout: float = 0.5,
        gradient_checkpointing: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize={normalize!r} is unknown; it is one of {NORMALIZATIONS}.")
        self.magnifications, self.patch_size = tuple(magnifications), patch_size
        self.skip_unavailable_magnifications, self.thumbnail_px, self.normalize = (
            skip_unavailable_magnifications,
            thumbnail_px,
            normalize,
        )
        self.attention_dropout, self.alpha, self.generator = attention_dropout, alpha, generator
        self.overview, patches = Backbone(backbone), Backbone(backbone)
        if frozen:
            self.overview.requires_grad_(False)
            patches.requires_grad_(False)
        self.attends = nn.ModuleList(
            nn.Conv2d(self.overview.dim, 1, 1) for _ in self.magnifications
        )
        self.read = SampledPatchClassifier(
            patches,
            patches.dim,
            num_classes,
            patch_size=patch_size,
            drawing=SamplingConfig(
                k, estimator, inference, ci_half_width, max_patches, max_seconds, seed
            ),
            dropout=dropout,
            gradient_checkpointing=gradient_checkpointing,
            generator=generator,
        )

    @property
    def encode(self) -> nn.Module:
        """What encodes a patch."""
        return self.read.encode

    def load_pretrained(self) -> None:
        """Take the published weights of the backbones.

        Raises:
            EncoderError: they cannot be had.
        """
        self.overview.load_pretrained()
        assert isinstance(self.read.encode, Backbone)
        self.read.encode.load_pretrained()

    def forward(self, sources: Sequence[PixelSource]) -> Prediction:
        """Classify slides, which may differ in size.

        Raises:
            GridError: a magnification does not fit a slide, or no cell of it has tissue.
        """
        asked = [ask_overview(source, self.thumbnail_px) for source in sources]
        cells = [self._cells(source) for source in sources]
        device = self.read.center.device
        tissues = [tissue_of(*each).to(device) for each in zip(sources, cells, strict=True)]
        features = encode_overviews(self.overview.maps, asked, device)
        attentions = [self._attention(*each) for each in zip(features, cells, tissues, strict=True)]
        thinned = [self._drop_cells(attention) for attention in attentions]
        scenes = [
            AttendedSlide(*each) for each in zip(sources, cells, tissues, thinned, strict=True)
        ]
        entropies = torch.stack([entropy(attention) for attention in attentions])
        return Prediction.together(self.read(scenes), {"entropy": entropies})

    def objective(self, prediction: Prediction, label: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
        """Give the cross-entropy, less what the entropy of the attention is worth."""
        loss = F.cross_entropy(prediction.logits, label)
        return loss - self.alpha * prediction.terms["entropy"].mean()

    def _cells(self, source: PixelSource) -> Cells:
        return lay_cells(
            source.size,
            source.mpp,
            magnifications=self.magnifications,
            patch_size=self.patch_size,
            skip_unavailable_magnifications=self.skip_unavailable_magnifications,
        )

    def _attention(
        self, h: Float[Tensor, "d i j"], cells: Cells, tissue: Bool[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Score the cells of all magnifications, and normalize over all of them."""
        # The paper pools first, which gives the same: a slide's map may have thousands of cells.
        maps = [
            F.adaptive_avg_pool2d(self.attends[level.step](h), level.shape).flatten()
            for level in cells.maps
        ]
        scores = torch.cat(maps)
        if self.normalize == "sigmoid":
            scores = F.logsigmoid(scores)  # softmax of which is sigmoid over the sum of sigmoids
        return scores.masked_fill(~tissue, float("-inf")).softmax(dim=0)

    def _drop_cells(self, attention: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Take cells away by chance, in training, and normalize again."""
        if not self.training or self.attention_dropout == 0:
            return attention
        kept = attention * self._kept(attention.detach() > 0)
        return kept / kept.sum()

    def _kept(self, live: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Draw which cells are left; never fewer than are to be drawn."""
        place = live.device if self.generator is None else self.generator.device
        noise = torch.rand(live.shape, device=place, generator=self.generator).to(live.device)
        noise = noise.masked_fill(~live, -1)
        kept = noise >= self.attention_dropout
        kept[noise.topk(min(self.read.drawing.k, int(live.sum()))).indices] = True
        return kept
