"""A patch classifier that is taught by outlined lesions, and a slide's label from its patches.

Source: the second baseline of Dimitriou & Arandjelović, "Magnifying Networks for Images with
    Billions of Pixels", arXiv 2112.06121, table 1, which says no more of it than that its
    supervision is of patches.
Departs: ours throughout; docs/methods.md tells what was chosen.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float, Int64
from torch import Tensor, nn

from parfocal.bag import Bag, Look, Prediction
from parfocal.models.layers.dropout import Dropout


class PatchSupervised(nn.Module):
    """Classify each patch, and a slide by those that show most of a lesion.

    A patch that touches a lesion has the label of its slide, any other the label `negative_class`. The
    evidence of a patch is log p(any other label) - log p(negative_class); the logits of a slide are the mean
    of those of its `top` patches of most evidence.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        dim: width of the embedding.
        dropout: of the embedding, in training.
        top: patches a slide's label comes from.
        negative_class: position of the label of slides without a lesion.

    Raises:
        ValueError: there is no such label, or no patch to judge by.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        dim: int = 512,
        dropout: float = 0.25,
        top: int = 5,
        negative_class: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= negative_class < num_classes:
            raise ValueError(
                f"negative_class={negative_class}: the labels are numbered 0 to {num_classes - 1}; give the one of "
                "slides without a lesion."
            )
        if top < 1:
            raise ValueError(f"top={top}: a slide is judged by 1 patch or more.")
        self.top, self.negative_class = top, negative_class
        self.embed = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(), Dropout(dropout))
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag; every patch is judged."""
        exists = bag.valid.to(self.classify.weight.device)
        logits = self.classify(self.embed(bag.features()))  # n c
        others = torch.arange(logits.shape[1], device=logits.device) != self.negative_class
        evidence = logits[:, others].logsumexp(dim=1) - logits[:, self.negative_class]  # n
        judged = evidence.detach().masked_fill(~exists, float("-inf"))
        best = judged.topk(min(self.top, int(exists.sum()))).indices
        look = Look(bag.rows, judged.softmax(dim=0).cpu())
        return Prediction(logits[best].mean(dim=0), (look,), terms={"patches": logits[exists]})

    def objective(self, prediction: Prediction, label: Int64[Tensor, ""]) -> Float[Tensor, ""]:
        """Give the cross-entropy of patches, those with a lesion worth as much as those without.

        Args:
            prediction: of one slide, its term `touching` telling which of the patches that exist
                touch a lesion.
            label: of the slide.
        """
        logits, touching = prediction.terms["patches"], prediction.terms["touching"]
        target = torch.where(touching, label, self.negative_class)
        loss = F.cross_entropy(logits, target, reduction="none")
        groups = [loss[group] for group in (touching, ~touching)]
        return torch.stack([group.mean() for group in groups if len(group)]).mean()
