"""MSMIL: the patches of all magnifications in one bag.

Source: Hashimoto et al., "Multi-scale Domain-adversarial Multiple-instance CNN for Cancer Subtype
    Classification with Unannotated Histopathological Images", CVPR 2020. Code:
    takeuchi-lab/MS-DA-MIL-CNN, read and not used.
Departs: the encoder is frozen, so the two stages (an extractor a magnification, then a predictor
    over all) are one; a slide is one bag, not up to 50 of 100 patches; the adversary is narrower.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float, Int64
from torch import Tensor, nn

from parfocal.bag import Bag, Look, Prediction
from parfocal.models.layers.attention import PlainAttention, masked_softmax
from parfocal.models.layers.dropout import Dropout


class MSMIL(nn.Module):
    """Classify a slide by attention over its patches of all magnifications.

    With an adversary, patches are also asked which slide they come from, and the embedding learns
    not to tell; the less attended a patch, the more so.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        num_magnifications: how many are looked at.
        num_slides: to learn from; what the adversary tells apart.
        dim: width of the embedding.
        hidden_dim: width of the attention.
        adversary_dim: width of the adversary.
        dropout: of embedding and attention, in training.
        adversarial: whether there is an adversary.
        adversary_weight: how fast it grows; alpha of the paper.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        num_magnifications: int = 3,
        num_slides: int = 1,
        dim: int = 512,
        hidden_dim: int = 128,
        adversary_dim: int = 1024,
        dropout: float = 0.0,
        adversarial: bool = False,
        adversary_weight: float = 1e-3,
    ) -> None:
        super().__init__()
        self.num_magnifications = num_magnifications
        self.adversary_weight = adversary_weight
        self.embed = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(inplace=True), Dropout(dropout))
        self.attend = PlainAttention(dim, hidden_dim, dropout=dropout)
        self.classify = nn.Linear(dim, num_classes)
        self.adversary = (
            nn.Sequential(
                nn.Linear(dim, adversary_dim), nn.ReLU(), nn.Linear(adversary_dim, num_slides)
            )
            if adversarial
            else None
        )
        self.slide, self.strength = 0, 0.0

    def set_slide(self, slide: int) -> None:
        """Say which of the slides to learn from comes next."""
        self.slide = slide

    def set_progress(self, fraction: float) -> None:
        """Say how much of the training is over, 0 to 1: the adversary grows."""
        # lambda = 2 / (1 + exp(-10 p)) - 1 = tanh(5 p)
        self.strength = math.tanh(5 * fraction * self.adversary_weight)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag at the lowest magnification.

        Raises:
            ValueError: the bag has no valid patch.
        """
        bags = [bag]
        while len(bags) < self.num_magnifications:
            bags.append(bags[-1].zoom(None))
        h = torch.cat([self.embed(each.features()) for each in bags])  # n c
        valid = torch.cat([each.valid for each in bags])  # n
        scores = self.attend(h)  # n
        attention = masked_softmax(scores, valid)
        looks, first = [], 0
        for each in bags:
            here = slice(first, first := first + len(each.rows))
            shown = masked_softmax(scores[here], valid[here])  # a look's attention sums to 1
            looks.append(Look(each.rows, shown.detach().cpu()))
        terms = {}
        if self.training and self.adversary is not None:
            terms["slide"] = self._adversity(h[valid.to(h.device)], attention[valid.to(h.device)])
        return Prediction(self.classify(attention @ h), tuple(looks), terms=terms)

    def _adversity(
        self, h: Float[Tensor, "n c"], attention: Float[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """Ask each patch for its slide; what the embedding learns of it is turned round."""
        assert self.adversary is not None
        weight = self.strength * (attention.max() - attention).detach()
        turned = h * -weight[:, None] + (h * (1 + weight[:, None])).detach()  # h, but its gradient
        told = self.adversary(turned)  # n slides
        return F.cross_entropy(told, torch.full((len(h),), self.slide, device=h.device))

    def objective(self, prediction: Prediction, label: Int64[Tensor, ""]) -> Float[Tensor, ""]:
        """Add the adversary's loss, where there is one, to the cross-entropy."""
        loss = F.cross_entropy(prediction.logits[None], label[None])
        return loss + prediction.terms["slide"] if "slide" in prediction.terms else loss
