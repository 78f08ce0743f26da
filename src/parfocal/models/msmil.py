"""MSMIL: attention over the patches of all magnifications in one bag.

Source: Hashimoto et al., "Multi-scale Domain-adversarial Multiple-instance CNN for Cancer Subtype
    Classification with Unannotated Histopathological Images", CVPR 2020. Code:
    takeuchi-lab/MS-DA-MIL-CNN, read and not used.
Departs: the encoder is frozen, so the two training stages (an encoder for each magnification, then
    a classifier over all) are one; a slide is one bag, not up to 50 bags of 100 patches; the
    adversary is narrower.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import Bag
from parfocal.models.contract import Loss
from parfocal.models.layers.attention import PlainAttention, masked_softmax
from parfocal.models.layers.dropout import Dropout
from parfocal.models.layers.widths import widths_per_magnification
from parfocal.prediction import Look, Prediction


class MSMIL(nn.Module):
    """Classify a slide by attention over its patches of all magnifications.

    With the adversary, a second classifier predicts from each patch which training slide it comes
    from, and a reversed gradient trains the embedding to make that impossible. The less attention a
    patch gets, the larger is its reversed gradient.

    Args:
        in_dim: number of features per patch: one for all magnifications, whose features then share
            one embedding; or one for each, lowest first, with an embedding for each, as the paper
            has an encoder for each.
        num_classes: number of classes.
        num_magnifications: number of magnifications.
        num_slides: number of training slides, which are the classes of the adversary.
        dim: width of the embedding.
        hidden_dim: width of the attention's hidden layer.
        adversary_dim: width of the adversary's hidden layer.
        dropout: dropout rate in the embedding and in the attention.
        adversarial: whether to train with the adversary.
        adversary_growth: how fast the weight of the reversed gradient grows during training (alpha
            in the paper).
    """

    def __init__(
        self,
        in_dim: int | Sequence[int],
        num_classes: int,
        *,
        num_magnifications: int = 3,
        num_slides: int = 1,
        dim: int = 512,
        hidden_dim: int = 128,
        adversary_dim: int = 1024,
        dropout: float = 0.0,
        adversarial: bool = False,
        adversary_growth: float = 1e-3,
    ) -> None:
        super().__init__()
        self.num_magnifications = num_magnifications
        self.adversary_growth = adversary_growth
        widths = widths_per_magnification(in_dim, num_magnifications)
        embedders = [
            nn.Sequential(nn.Linear(width, dim), nn.ReLU(inplace=True), Dropout(dropout))
            for width in (widths[:1] if isinstance(in_dim, int) else widths)
        ]
        # Shared by all magnifications, or one for each.
        self.embedder = embedders[0] if isinstance(in_dim, int) else nn.ModuleList(embedders)
        self.attention = PlainAttention(dim, hidden_dim, dropout=dropout)
        self.classifier = nn.Linear(dim, num_classes)
        self.adversary = (
            nn.Sequential(
                nn.Linear(dim, adversary_dim), nn.ReLU(), nn.Linear(adversary_dim, num_slides)
            )
            if adversarial
            else None
        )
        self.slide, self.reversal_weight = 0, 0.0

    def set_slide(self, slide: int) -> None:
        """Set the position of the next training slide, the target of the adversary."""
        self.slide = slide

    def set_progress(self, fraction: float) -> None:
        """Set the completed fraction of the training, from 0 to 1; the adversary grows."""
        # lambda = 2 / (1 + exp(-10 alpha p)) - 1 = tanh(5 alpha p)
        self.reversal_weight = math.tanh(5 * fraction * self.adversary_growth)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at the lowest magnification.

        Raises:
            ValueError: the bag has no valid patch.
        """
        bags = [bag]
        while len(bags) < self.num_magnifications:
            bags.append(bags[-1].zoom(None))
        h = torch.cat([self._embed(step, each.features()) for step, each in enumerate(bags)])  # n c
        valid = torch.cat([each.valid for each in bags])  # n
        scores = self.attention(h)  # n
        attention = masked_softmax(scores, valid)
        looks, first = [], 0
        for each in bags:
            part = slice(first, first := first + len(each.rows))
            # Normalized within the magnification, because the score of a look sums to 1.
            looks.append(Look(each.rows, masked_softmax(scores[part], valid[part]).detach().cpu()))
        terms = {}
        if self.training and self.adversary is not None:
            exists = valid.to(h.device)
            terms["adversary"] = self._adversary_loss(h[exists], attention[exists])
        return Prediction(self.classifier(attention @ h), tuple(looks), terms=terms)

    def _embed(self, step: int, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Embed the patches of one magnification."""
        shared = not isinstance(self.embedder, nn.ModuleList)
        embedded: Tensor = (self.embedder if shared else self.embedder[step])(features)
        return embedded

    def objective(self, prediction: Prediction, target: Tensor, loss: Loss) -> Float[Tensor, ""]:
        """Return the loss of the task, plus the adversary's loss if there is an adversary."""
        total: Tensor = loss(prediction.logits, target)
        return total + prediction.terms["adversary"] if "adversary" in prediction.terms else total

    def _adversary_loss(
        self, h: Float[Tensor, "n c"], attention: Float[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """Return the cross-entropy of predicting the slide; its gradient in `h` is reversed."""
        assert self.adversary is not None
        weight = self.reversal_weight * (attention.max() - attention).detach()
        # Equal to h, but its gradient is multiplied by -weight.
        reversed_h = h * -weight[:, None] + (h * (1 + weight[:, None])).detach()
        logits = self.adversary(reversed_h)  # n slides
        return F.cross_entropy(logits, torch.full((len(h),), self.slide, device=h.device))
