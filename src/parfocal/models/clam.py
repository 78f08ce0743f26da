"""CLAM: attention that is also taught by the patches it favors and those it does not.

Source: Lu et al., "Data-efficient and weakly supervised computational pathology on whole-slide
    images", Nature Biomedical Engineering 2021. Code: mahmoodlab/CLAM, read and not used.
Departs: of a slide with fewer than 2 B patches half are called its best and half its worst, so that
    no patch is taught both; the code needs B. Dropout is what is asked for, also in the attention.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.bag import Bag, Look, Prediction
from parfocal.models.layers.attention import AT_ONCE, GatedAttention, masked_softmax, pooled
from parfocal.models.layers.dropout import Dropout

INSTANCE_LOSSES = ("svm", "cross_entropy")


class CLAM(nn.Module):
    """Classify a slide by attention, taught to part the patches it favors from the others.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        branches: "single" attention for all classes (CLAM-SB), or one for each in "multiple", with
            a classifier for each (CLAM-MB).
        dim: width of the embedding.
        hidden_dim: width of the attention; 384 in the authors' big model.
        dropout: of embedding and attention, in training.
        num_instances: B, of the most and of the least attended patches that are taught.
        instance_loss: "svm", smooth over the best wrong answer, or "cross_entropy".
        bag_weight: of the slide's loss; the rest is that of the patches.
        subtyping: classes exclude each other, so what is favored for another class is wrong.

    Raises:
        ValueError: an argument is none of those allowed.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        branches: str = "single",
        dim: int = 512,
        hidden_dim: int = 256,
        dropout: float = 0.25,
        num_instances: int = 8,
        instance_loss: str = "svm",
        bag_weight: float = 0.7,
        subtyping: bool = False,
    ) -> None:
        super().__init__()
        if branches not in ("single", "multiple"):
            raise ValueError(f"branches={branches!r} is unknown; it is 'single' or 'multiple'.")
        if instance_loss not in INSTANCE_LOSSES:
            raise ValueError(
                f"instance_loss={instance_loss!r} is unknown; it is one of {INSTANCE_LOSSES}."
            )
        self.single = branches == "single"
        self.num_instances = num_instances
        self.instance_loss = instance_loss
        self.bag_weight = bag_weight
        self.subtyping = subtyping
        self.embed = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(inplace=True), Dropout(dropout))
        heads = 1 if self.single else num_classes
        self.attend = GatedAttention(dim, hidden_dim, heads=heads, dropout=dropout)
        # Of several branches, the row of a class answers to its own branch alone.
        self.classify = nn.Linear(dim, num_classes)
        self.judge = nn.ModuleList(nn.Linear(dim, 2) for _ in range(num_classes))

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag at the one magnification.

        Raises:
            ValueError: the bag has no valid patch.
        """
        parts = [self.embed(rows) for rows in torch.split(bag.features(), AT_ONCE)]  # of n c
        scores = torch.cat([self.attend.of_heads(h) for h in parts])  # n heads
        valid = bag.valid
        attention = masked_softmax(scores, valid)
        h = pooled(attention, parts).T  # heads c
        if self.single:
            logits = self.classify(h[0])
            shown = attention[:, 0]
        else:
            logits = (self.classify.weight * h).sum(dim=1) + self.classify.bias
            shown = attention[:, logits.argmax()]
        look = Look(bag.rows, shown.detach().cpu())
        terms = {"instances": self._judged(parts, attention, valid)} if self.training else {}
        return Prediction(logits, (look,), terms=terms)

    def _judged(
        self,
        parts: Sequence[Float[Tensor, "_ c"]],
        attention: Float[Tensor, "n heads"],
        valid: Bool[Tensor, " n"],
    ) -> Float[Tensor, "classes b2 2"]:
        """Let each class judge the patches its branch favors, then those it favors least."""
        b = min(self.num_instances, int(valid.sum()) // 2)
        extremes = [_rows(parts, _extremes(each, valid, b)) for each in attention.detach().T]
        judged = [judge(extremes[0 if self.single else c]) for c, judge in enumerate(self.judge)]
        return torch.stack(judged)

    def objective(self, prediction: Prediction, label: Int64[Tensor, ""]) -> Float[Tensor, ""]:
        """Weigh the slide's cross-entropy against what is taught of its patches."""
        slide = F.cross_entropy(prediction.logits[None], label[None])
        judged = prediction.terms["instances"]  # classes 2b 2
        if not judged.shape[1]:
            return self.bag_weight * slide
        return self.bag_weight * slide + (1 - self.bag_weight) * self._patches(judged, label)

    def _patches(
        self, judged: Float[Tensor, "classes b2 2"], label: Int64[Tensor, ""]
    ) -> Float[Tensor, ""]:
        """Of the slide's class the favored are right and the others wrong; see `subtyping`."""
        b = judged.shape[1] // 2
        right = torch.arange(2 * b, device=judged.device).lt(b).long()
        own = self._loss(judged[label], right)
        if not self.subtyping:
            return own
        others = [
            self._loss(favored[:b], torch.zeros_like(right[:b]))
            for c, favored in enumerate(judged)
            if c != label
        ]
        return torch.stack([own, *others]).mean()

    def _loss(self, scores: Float[Tensor, "b 2"], right: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
        if self.instance_loss == "svm":
            # log sum over answers j of exp(s_j + [j wrong]) - s_right (Berrada et al., ICLR 2018)
            scores = scores + 1 - F.one_hot(right, 2)
        return F.cross_entropy(scores, right)


def _extremes(
    attention: Float[Tensor, " n"], valid: Bool[Tensor, " n"], count: int
) -> Int64[Tensor, " b2"]:
    """Give the most attended patches, then the least attended ones."""
    missing = ~valid.to(attention.device)
    best = attention.masked_fill(missing, -1).topk(count).indices
    worst = attention.masked_fill(missing, 2).topk(count, largest=False).indices
    return torch.cat([best, worst])


def _rows(parts: Sequence[Float[Tensor, "_ c"]], rows: Int64[Tensor, " b"]) -> Float[Tensor, "b c"]:
    """Give some rows of a table that comes in parts."""
    chosen = [parts[row // AT_ONCE][row % AT_ONCE] for row in rows.tolist()]
    return torch.stack(chosen) if chosen else parts[0][:0]
