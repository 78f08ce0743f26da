"""CLAM: attention with instance-level clustering of the most and least attended patches.

Source: Lu et al., "Data-efficient and weakly supervised computational pathology on whole-slide
    images", Nature Biomedical Engineering 2021. Code: mahmoodlab/CLAM, read and not used.
Departs: a slide with fewer than 2 B patches uses half of them as the most and half as the least
    attended, so that no patch is in both groups; the authors' code requires B patches. `dropout`
    also applies to the attention.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.bag import Bag
from parfocal.models.choice import require_choice
from parfocal.models.contract import Loss
from parfocal.models.layers.attention import CHUNK, GatedAttention, masked_softmax, weighted_sum
from parfocal.models.layers.dropout import Dropout
from parfocal.prediction import Look, Prediction

BRANCHES = ("single", "multiple")
INSTANCE_LOSSES = ("svm", "cross_entropy")


class CLAM(nn.Module):
    """Classify a slide by attention, trained to separate its most from its least attended patches.

    Args:
        in_dim: number of features per patch.
        num_classes: number of classes.
        branches: "single" for one attention for all classes (CLAM-SB); "multiple" for an attention
            and a classifier for each class (CLAM-MB).
        dim: width of the embedding.
        hidden_dim: width of the attention's hidden layer; 384 in the authors' large model.
        dropout: dropout rate in the embedding and in the attention.
        num_instances: number B of most attended patches, and of least attended patches, in the
            instance loss.
        instance_loss: "svm" for the smooth top-1 SVM loss, or "cross_entropy".
        bag_weight: weight of the slide's loss; the instance loss has weight 1 - bag_weight.
        subtyping: whether the classes are mutually exclusive; if True, the patches most attended
            for another class are negatives of that class.

    Raises:
        ValueError: an argument is invalid.
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
        require_choice("branches", branches, BRANCHES)
        require_choice("instance_loss", instance_loss, INSTANCE_LOSSES)
        self.single = branches == "single"
        self.num_instances = num_instances
        self.instance_loss = instance_loss
        self.bag_weight = bag_weight
        self.subtyping = subtyping
        self.embedder = nn.Sequential(
            nn.Linear(in_dim, dim), nn.ReLU(inplace=True), Dropout(dropout)
        )
        heads = 1 if self.single else num_classes
        self.attention = GatedAttention(dim, hidden_dim, heads=heads, dropout=dropout)
        # With several branches, the row of each class is the classifier of its branch.
        self.classifier = nn.Linear(dim, num_classes)
        self.instance_classifiers = nn.ModuleList(nn.Linear(dim, 2) for _ in range(num_classes))

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at a single magnification.

        Raises:
            ValueError: the bag has no valid patch.
        """
        chunks = [self.embedder(rows) for rows in torch.split(bag.features(), CHUNK)]  # each n c
        scores = torch.cat([self.attention.score_heads(h) for h in chunks])  # n heads
        valid = bag.valid
        attention = masked_softmax(scores, valid)
        h = weighted_sum(attention, chunks).T  # heads c
        if self.single:
            logits = self.classifier(h[0])
            reported = attention[:, 0]
        else:
            logits = (self.classifier.weight * h).sum(dim=1) + self.classifier.bias
            reported = attention[:, logits.argmax()]
        look = Look(bag.rows, reported.detach().cpu())
        terms = {}
        if self.training:
            terms["instances"] = self._classify_instances(chunks, attention, valid)
        return Prediction(logits, (look,), terms=terms)

    def objective(self, prediction: Prediction, target: Tensor, loss: Loss) -> Float[Tensor, ""]:
        """Return bag_weight * slide loss + (1 - bag_weight) * instance loss."""
        slide = loss(prediction.logits, target)
        instances = prediction.terms["instances"]  # classes 2b 2
        no_class = self.bag_weight == 1 and target.is_floating_point()  # of another task
        if no_class or not instances.shape[1]:
            return self.bag_weight * slide
        instance_loss = self._instance_loss(instances, target)
        return self.bag_weight * slide + (1 - self.bag_weight) * instance_loss

    def _classify_instances(
        self,
        chunks: Sequence[Float[Tensor, "_ c"]],
        attention: Float[Tensor, "n heads"],
        valid: Bool[Tensor, " n"],
    ) -> Float[Tensor, "classes b2 2"]:
        """Return logits of the most attended, then of the least attended patches, by class."""
        b = min(self.num_instances, int(valid.sum()) // 2)
        selected = [_rows(chunks, _extremes(each, valid, b)) for each in attention.detach().T]
        logits = [
            classifier(selected[0 if self.single else c])
            for c, classifier in enumerate(self.instance_classifiers)
        ]
        return torch.stack(logits)

    def _instance_loss(
        self, instances: Float[Tensor, "classes b2 2"], target: Int64[Tensor, ""]
    ) -> Float[Tensor, ""]:
        """Return the mean loss of the patches; positives of the slide's class come first."""
        b = instances.shape[1] // 2
        positive = torch.arange(2 * b, device=instances.device).lt(b).long()
        own = self._patch_loss(instances[target], positive)
        if not self.subtyping:
            return own
        others = [
            self._patch_loss(logits[:b], torch.zeros_like(positive[:b]))
            for c, logits in enumerate(instances)
            if c != target
        ]
        return torch.stack([own, *others]).mean()

    def _patch_loss(
        self, logits: Float[Tensor, "b 2"], labels: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        if self.instance_loss == "svm":
            # log sum_j exp(s_j + [j is wrong]) - s_label (Berrada et al., ICLR 2018)
            logits = logits + 1 - F.one_hot(labels, 2)
        return F.cross_entropy(logits, labels)


def _extremes(
    attention: Float[Tensor, " n"], valid: Bool[Tensor, " n"], count: int
) -> Int64[Tensor, " b2"]:
    """Return the positions of the most attended patches, then of the least attended."""
    missing = ~valid.to(attention.device)
    most = attention.masked_fill(missing, -1).topk(count).indices
    least = attention.masked_fill(missing, 2).topk(count, largest=False).indices
    return torch.cat([most, least])


def _rows(
    chunks: Sequence[Float[Tensor, "_ c"]], rows: Int64[Tensor, " b"]
) -> Float[Tensor, "b c"]:
    """Return rows of a table that is split into chunks."""
    selected = [chunks[row // CHUNK][row % CHUNK] for row in rows.tolist()]
    return torch.stack(selected) if selected else chunks[0][:0]
