"""Ranked patches: a cheap encoder ranks the patches, and an expensive one encodes the best.

Source: EAGLE, Nature Communications 17:5740, 2026, arXiv 2502.13027: a pretrained slide model over
    a cheap encoder ranks all tiles without labels, an expensive encoder encodes the 25 highest, and
    the mean of their features represents the slide.
Departs: there is no pretrained slide model here, so the ranking is either without labels by the
    distance from the mean of the slide, or by the attention of an ABMIL that was trained at the
    lower magnification; the expensive encoder reads a higher magnification, where EAGLE's reads the
    same; a perceptron with one hidden layer classifies.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from parfocal.bag import Bag
from parfocal.models.abmil import ABMIL
from parfocal.models.choice import require_choice
from parfocal.models.layers.attention import masked_softmax, require_valid
from parfocal.models.layers.choosing import choose
from parfocal.models.layers.dropout import Dropout
from parfocal.models.layers.topk import TopK
from parfocal.models.layers.widths import widths_per_magnification
from parfocal.prediction import Look, Prediction

RANKINGS = ("distance", "teacher")


class RankedPatches(nn.Module):
    """Classify a slide by the mean of the few patches that a ranking at low magnification selects.

    Where to look is not learned with the classes: the ranking is fixed before training.

    Args:
        in_dim: number of features per patch, one for both magnifications or one for each, lower
            first.
        num_classes: number of classes.
        num_magnifications: number of magnifications, which is 2.
        k: largest number of patches to encode at the higher magnification. They are the children
            of as many patches of the lower as fit, and of at least one.
        ranking: "distance" for the distance of a patch from the mean of the slide, each feature in
            units of its standard deviation over the slide; "teacher" for the attention of a
            trained ABMIL of the lower magnification (`train.teacher`).
        hidden_dim: width of the hidden layer of the classifier.
        dropout: dropout rate in the hidden layer.

    Raises:
        ValueError: an argument is invalid.
    """

    teacher_magnification = 0  # the lower

    def __init__(
        self,
        in_dim: int | Sequence[int],
        num_classes: int,
        *,
        num_magnifications: int = 2,
        k: int = 25,
        ranking: str = "distance",
        hidden_dim: int = 512,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        if num_magnifications != 2:
            raise ValueError(
                f"num_magnifications={num_magnifications}: patches are ranked at one magnification "
                "and encoded at another; set two, as slide.magnifications=[2.5, 10]."
            )
        require_choice("ranking", ranking, RANKINGS)
        low, high = widths_per_magnification(in_dim, num_magnifications)
        self.high_dim = high
        self.topk = TopK(k)  # its `k` counts children; see `_choose`
        self.k, self.ranking = k, ranking
        self.hidden = nn.Sequential(nn.Linear(high, hidden_dim), nn.ReLU(), Dropout(dropout))
        self.classifier = nn.Linear(hidden_dim, num_classes)
        self.ranker = ABMIL(low, num_classes) if ranking == "teacher" else None
        if self.ranker is not None:
            self.ranker.requires_grad_(False)

    @property
    def needs_teacher(self) -> bool:
        """Whether the ranking is that of a trained model."""
        return self.ranker is not None

    def set_teacher(self, teacher: nn.Module) -> None:
        """Copy the weights of the trained model that ranks.

        Raises:
            ValueError: it is not an ABMIL with the default settings.
        """
        assert self.ranker is not None
        try:
            self.ranker.load_state_dict(teacher.state_dict())
        except RuntimeError:
            raise ValueError(
                "only an abmil with the default dim, hidden_dim and gated can rank patches; train "
                "one at the lower magnification."
            ) from None

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at the lower magnification.

        Scores at the lower magnification are the ranking, scaled to a sum of 1; at the higher, 1/n.
        If a budget allows no patch at the higher, the answer is that for features of zero.

        Raises:
            ValueError: the bag has one magnification, or no valid patch.
        """
        valid = bag.valid
        require_valid(valid)
        scores = self._rank(bag, valid)  # n
        children = len(bag.zoom(None).rows) // len(bag.rows)
        self.topk.k = max(1, self.k // children)
        select = choose(bag, self.topk, scores, valid.to(scores.device))  # k n
        score = (scores / scores.sum().clamp_min(1e-30)).cpu()
        if select is None:  # by a budget; the model is to answer from what it has seen: nothing
            nothing = scores.new_zeros(self.high_dim)
            return Prediction(self.classifier(self.hidden(nothing)), (Look(bag.rows, score),))
        low = Look(bag.rows, score, select.argmax(dim=1).cpu(), score)
        bag = bag.zoom(select)
        x = bag.features()  # m d
        weights = masked_softmax(x.new_zeros(len(x)), bag.valid)  # m
        logits = self.classifier(self.hidden(weights @ x))
        return Prediction(logits, (low, Look(bag.rows, weights.cpu())))

    @torch.no_grad()
    def _rank(self, bag: Bag, valid: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return a non-negative score per patch; 0 for those that do not exist."""
        if self.ranker is not None:
            ranked: Prediction = self.ranker.eval()(bag)
            return ranked.looks[0].score.to(next(self.ranker.parameters()).device)
        x = bag.features()
        exists = valid.to(x.device)
        existing = x[exists]
        spread = existing.std(dim=0, correction=0).clamp_min(1e-6)
        distance = ((x - existing.mean(dim=0)) / spread).square().mean(dim=1)
        return distance.sqrt() * exists
