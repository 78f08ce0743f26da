"""Attention sampling (ATS): sharp patches drawn by an attention map over a thumbnail.

Source: Katharopoulos & Fleuret, "Processing Megapixel Images with Deep Attention-Sampling
    Models", ICML 2019. Code: idiap/attention-sampling.
Departs: the gradient of the attention is unbiased, where the code's is not; patches that would
    leave the image are moved inside, where the code fills with zeros; the patch backbone is one of
    ours. Cells without tissue get no attention.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float, Int64
from torch import Tensor, nn

from parfocal.bag import PixelSource, Prediction
from parfocal.cells import Cells, center_cells
from parfocal.models.layers.backbone import Backbone
from parfocal.models.layers.overview import ask_overview, encode_overviews
from parfocal.models.layers.patch_sampling import (
    AttendedSlide,
    SampledPatchClassifier,
    SamplingConfig,
    tissue_of,
)
from parfocal.models.layers.sampling import entropy


class AttentionSampling(nn.Module):
    """Classify slides by a few patches of one magnification, drawn from a thumbnail's attention.

    Args:
        num_classes: slide labels.
        magnifications: of the patches; one.
        patch_size: side of a patch in pixels.
        backbone: of the patches; see `Backbone`.
        thumbnail_px: longer side of the thumbnail; each of its pixels is a cell.
        widths: of the attention network's convolutions, before the last.
        smoothing: share of the attention that is even over all cells.
        k: patches drawn.
        estimator: of the aggregated features; see `aggregate`.
        inference: what is looked at after training, "sample", "topk" or "all"; see `SamplingConfig`.
        ci_half_width: see `SamplingConfig`, as the next three.
        max_patches: likewise.
        max_seconds: likewise.
        seed: likewise.
        unit_length: scale the features of each patch to length 1.
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
        magnifications: Sequence[float] = (10.0,),
        patch_size: int = 50,
        backbone: str = "small",
        thumbnail_px: int = 180,
        widths: Sequence[int] = (8, 8),
        smoothing: float = 1e-5,
        k: int = 10,
        estimator: str = "unbiased",
        inference: str = "sample",
        ci_half_width: float | None = None,
        max_patches: int | None = None,
        max_seconds: float | None = None,
        seed: int = 0,
        unit_length: bool = True,
        alpha: float = 1e-4,
        dropout: float = 0.0,
        gradient_checkpointing: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(magnifications) != 1:
            raise ValueError(f"magnifications={list(magnifications)}: it looks at one; give one.")
        self.magnification, self.patch_size = magnifications[0], patch_size
        self.thumbnail_px, self.smoothing, self.alpha = thumbnail_px, smoothing, alpha
        self.attend = _attention_network(widths)
        patches = Backbone(backbone)
        self.read = SampledPatchClassifier(
            patches,
            patches.dim,
            num_classes,
            patch_size=patch_size,
            drawing=SamplingConfig(
                k, estimator, inference, ci_half_width, max_patches, max_seconds, seed
            ),
            dropout=dropout,
            unit_length=unit_length,
            gradient_checkpointing=gradient_checkpointing,
            generator=generator,
        )

    @property
    def encode(self) -> nn.Module:
        """What encodes a patch."""
        return self.read.encode

    def load_pretrained(self) -> None:
        """Take the published weights of the patch backbone, where it has any.

        Raises:
            EncoderError: they cannot be had.
        """
        assert isinstance(self.read.encode, Backbone)
        self.read.encode.load_pretrained()

    def forward(self, sources: Sequence[PixelSource]) -> Prediction:
        """Classify slides, which may differ in size.

        Raises:
            GridError: the magnification does not fit a slide, or no cell of it has tissue.
        """
        asked = [ask_overview(source, self.thumbnail_px) for source in sources]
        maps = encode_overviews(self.attend, asked, self.read.center.device)
        scenes = [self._scene(*each) for each in zip(sources, maps, strict=True)]
        entropies = torch.stack([entropy(scene.attention) for scene in scenes])
        return Prediction.together(self.read(scenes), {"entropy": entropies})

    def objective(self, prediction: Prediction, label: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
        """Give the cross-entropy, less what the entropy of the attention is worth."""
        loss = F.cross_entropy(prediction.logits, label)
        return loss - self.alpha * prediction.terms["entropy"].mean()

    def _scene(self, source: PixelSource, scores: Float[Tensor, "1 h w"]) -> AttendedSlide:
        """Lay a cell on every pixel of a thumbnail, and normalize its scores."""
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
        tissue = tissue_of(source, cells).to(scores.device)
        attention = scores.flatten().masked_fill(~tissue, float("-inf")).softmax(dim=0)
        smooth = attention.lerp(tissue / tissue.sum(), self.smoothing)
        return AttendedSlide(source, cells, tissue, smooth)


def _attention_network(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for in_dim, dim in pairwise((3, *widths)):
        layers += [nn.Conv2d(in_dim, dim, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1] if widths else 3, 1, 3, padding=1))
