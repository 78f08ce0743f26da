"""DSMIL: how much each patch is like the one that most speaks for a class.

Source: Li, Li, Eliceiri, "Dual-stream Multiple Instance Learning Network for Whole Slide Image
    Classification with Self-supervised Contrastive Learning", CVPR 2021. Code: binli123/dsmil-wsi.
Departs: the encoder is not trained on the slides beforehand. Theirs normalizes each picture by
    itself; for one that does not, `normalize` does it to each patch's features. Features of several
    magnifications are concatenated, as in the paper.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.bag import Bag, Look, Prediction
from parfocal.models.layers.attention import masked_softmax


class DSMIL(nn.Module):
    """Classify a slide by its critical patches and by what is like them.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        num_magnifications: each patch of the highest is joined with all it lies in.
        query_dim: width in which patches are compared.
        normalize: give the features of each patch, by themselves, mean 0 and variance 1.
        patch_dropout: share of patches left out of each training step, so that a slide cannot be
            told by one patch alone; never in testing.

    Raises:
        ValueError: `patch_dropout` is no share, or all.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        num_magnifications: int = 1,
        query_dim: int = 128,
        normalize: bool = False,
        patch_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= patch_dropout < 1:
            raise ValueError(f"patch_dropout={patch_dropout}: give 0 or more, and less than 1.")
        dim = in_dim * num_magnifications
        self.num_magnifications = num_magnifications
        self.normalize = normalize
        self.patch_dropout = patch_dropout
        self.score = nn.Linear(dim, num_classes)
        self.query = nn.Sequential(
            nn.Linear(dim, query_dim),
            nn.ReLU(inplace=True),
            nn.Linear(query_dim, query_dim),
            nn.Tanh(),
        )
        self.classify = nn.Linear(num_classes * dim, num_classes)
        for layer in (self.score, self.query[0], self.query[2], self.classify):
            assert isinstance(layer, nn.Linear)
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag at the lowest magnification.

        Raises:
            ValueError: the bag has no valid patch at the highest magnification.
        """
        bags = [bag]
        while len(bags) < self.num_magnifications:
            bags.append(bags[-1].zoom(None))
        x, valid = self._joined(bags), self._kept(bags[-1].valid)  # n d, n
        scores = self.score(x)  # n classes
        queries = self.query(x)  # n q
        missing = ~valid.to(x.device)[:, None]
        best, critical = scores.masked_fill(missing, float("-inf")).max(dim=0)  # classes, classes
        likeness = queries @ queries[critical].T / queries.shape[1] ** 0.5  # n classes
        attention = masked_softmax(likeness, valid)
        logits = self.classify((attention.T @ x).flatten())
        shown = attention[:, logits.argmax()].detach().cpu()
        looks = tuple(Look(each.rows, shown.view(len(each.rows), -1).sum(dim=1)) for each in bags)
        return Prediction(logits, looks, terms={"critical": best})

    def objective(self, prediction: Prediction, label: Int64[Tensor, ""]) -> Float[Tensor, ""]:
        """Ask of the slide and of its critical patches, class by class, whether it is there."""
        target = F.one_hot(label, len(prediction.logits)).to(prediction.logits)
        both = torch.stack([prediction.logits, prediction.terms["critical"]])
        return F.binary_cross_entropy_with_logits(both, target.expand_as(both))

    def _joined(self, bags: list[Bag]) -> Float[Tensor, "n d"]:
        """Join the features of each patch of the last bag with those of all it lies in."""
        rows = len(bags[-1].rows)
        features = [bag.features() for bag in bags]
        if self.normalize:
            features = [F.layer_norm(each, each.shape[1:]) for each in features]
        if len(features) == 1:
            return features[0]
        return torch.cat([each.repeat_interleave(rows // len(each), dim=0) for each in features], 1)

    def _kept(self, valid: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Leave patches out by chance, in training, unless none would remain."""
        if not (self.training and self.patch_dropout):
            return valid
        kept = valid & (torch.rand(len(valid), device=valid.device) >= self.patch_dropout)
        return kept if kept.any() else valid
