"""DSMIL: attention by similarity to the patch with the highest score of each class.

Source: Li, Li, Eliceiri, "Dual-stream Multiple Instance Learning Network for Whole Slide Image
    Classification with Self-supervised Contrastive Learning", CVPR 2021. Code: binli123/dsmil-wsi.
Departs: the encoder is not pretrained on the slides at hand. The authors' encoder normalizes each
    patch by itself; `normalize` does so for the features of an encoder that does not. Features of
    several magnifications are concatenated, as in the paper.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Bool, Float
from torch import Tensor, nn

from parfocal.bag import Bag
from parfocal.models.contract import Loss
from parfocal.models.layers.attention import masked_softmax
from parfocal.models.layers.widths import widths_per_magnification
from parfocal.prediction import Look, Prediction


class DSMIL(nn.Module):
    """Classify a slide by its critical patches and the patches similar to them.

    The critical patch of a class is the one with the highest score for it.

    Args:
        in_dim: number of features per patch, one for all magnifications or one for each, lowest
            first.
        num_classes: number of classes.
        num_magnifications: number of magnifications; the features of each patch at the highest are
            concatenated with those of all patches that contain it.
        query_dim: width of the queries that compare patches.
        normalize: whether to scale the features of each patch to mean 0 and variance 1.
        patch_dropout: fraction of patches to drop at random in each training step, at least 0 and
            less than 1.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        in_dim: int | Sequence[int],
        num_classes: int,
        *,
        num_magnifications: int = 1,
        query_dim: int = 128,
        normalize: bool = False,
        patch_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= patch_dropout < 1:
            raise ValueError(
                f"patch_dropout={patch_dropout}: a dropout rate is at least 0 and less than 1."
            )
        dim = sum(widths_per_magnification(in_dim, num_magnifications))
        self.num_magnifications = num_magnifications
        self.normalize = normalize
        self.patch_dropout = patch_dropout
        self.instance_classifier = nn.Linear(dim, num_classes)
        self.query = nn.Sequential(
            nn.Linear(dim, query_dim),
            nn.ReLU(inplace=True),
            nn.Linear(query_dim, query_dim),
            nn.Tanh(),
        )
        self.classifier = nn.Linear(num_classes * dim, num_classes)
        for layer in (self.instance_classifier, self.query[0], self.query[2], self.classifier):
            assert isinstance(layer, nn.Linear)
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at the lowest magnification.

        Raises:
            ValueError: the bag has no valid patch at the highest magnification.
        """
        bags = [bag]
        while len(bags) < self.num_magnifications:
            bags.append(bags[-1].zoom(None))
        x, valid = self._concatenated(bags), self._drop_patches(bags[-1].valid)  # n d, n
        scores = self.instance_classifier(x)  # n classes
        queries = self.query(x)  # n q
        missing = ~valid.to(x.device)[:, None]
        highest, critical = scores.masked_fill(missing, float("-inf")).max(dim=0)  # classes each
        similarity = queries @ queries[critical].T / queries.shape[1] ** 0.5  # n classes
        attention = masked_softmax(similarity, valid)
        logits = self.classifier((attention.T @ x).flatten())
        reported = attention[:, logits.argmax()].detach().cpu()
        # The score of a patch at a lower magnification is the sum over the patches inside it.
        looks = tuple(
            Look(each.rows, reported.view(len(each.rows), -1).sum(dim=1)) for each in bags
        )
        return Prediction(logits, looks, terms={"critical": highest})

    def objective(self, prediction: Prediction, target: Tensor, loss: Loss) -> Float[Tensor, ""]:
        """Return the mean loss of both streams.

        In classification, where the loss of the task is the cross-entropy, it is the published
        one: the binary cross-entropy of each class.
        """
        streams = torch.stack([prediction.logits, prediction.terms["critical"]])
        if loss is not F.cross_entropy:
            return torch.stack([loss(stream, target) for stream in streams]).mean()
        one_hot = F.one_hot(target, len(prediction.logits)).to(prediction.logits)
        return F.binary_cross_entropy_with_logits(streams, one_hot.expand_as(streams))

    def _concatenated(self, bags: list[Bag]) -> Float[Tensor, "n d"]:
        """Return the features of each patch of the last bag and of all patches that contain it."""
        rows = len(bags[-1].rows)
        features = [bag.features() for bag in bags]
        if self.normalize:
            features = [F.layer_norm(each, each.shape[1:]) for each in features]
        if len(features) == 1:
            return features[0]
        return torch.cat([each.repeat_interleave(rows // len(each), dim=0) for each in features], 1)

    def _drop_patches(self, valid: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Drop patches at random in training, unless none would be left."""
        if not (self.training and self.patch_dropout):
            return valid
        kept = valid & (torch.rand(len(valid), device=valid.device) >= self.patch_dropout)
        return kept if kept.any() else valid
