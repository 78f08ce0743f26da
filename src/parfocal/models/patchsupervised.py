"""A patch classifier trained on outlines of lesions, whose top patches classify the slide.

Source: the second baseline in table 1 of Dimitriou & Arandjelović, "Magnifying Networks for Images
    with Billions of Pixels", arXiv 2112.06121, which says only that it is supervised by patches.
Departs: everything else is our own choice; docs/methods.md lists it.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from parfocal.bag import Bag
from parfocal.models.contract import Loss
from parfocal.models.layers.dropout import Dropout
from parfocal.prediction import Look, Prediction


class PatchSupervised(nn.Module):
    """Classify each patch, and the slide by the patches with the most evidence of a lesion.

    In training, the label of a patch is the label of its slide if it touches a lesion, and
    `negative_class` otherwise. The evidence of a patch is
    log p(any other class) - log p(negative_class). The logits of a slide are the mean logits of its
    `top_k` patches with the most evidence.

    Args:
        in_dim: number of features per patch.
        num_classes: number of classes.
        dim: width of the embedding.
        dropout: dropout rate in the embedding.
        top_k: number of patches that classify the slide; all if the bag has fewer.
        negative_class: position of the label of slides without a lesion.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        dim: int = 512,
        dropout: float = 0.25,
        top_k: int = 5,
        negative_class: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= negative_class < num_classes:
            raise ValueError(
                f"negative_class={negative_class}: the labels are numbered 0 to {num_classes - 1}; "
                "give the number of the label of slides without a lesion."
            )
        if top_k < 1:
            raise ValueError(f"top_k={top_k}: at least 1 patch is needed.")
        self.top_k, self.negative_class = top_k, negative_class
        self.embedder = nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(), Dropout(dropout))
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at a single magnification.

        The score of a patch in the look is a softmax of the evidence.
        """
        exists = bag.valid.to(self.classifier.weight.device)
        logits = self.classifier(self.embedder(bag.features()))  # n c
        others = torch.arange(logits.shape[1], device=logits.device) != self.negative_class
        evidence = logits[:, others].logsumexp(dim=1) - logits[:, self.negative_class]  # n
        evidence = evidence.detach().masked_fill(~exists, float("-inf"))
        top = evidence.topk(min(self.top_k, int(exists.sum()))).indices
        look = Look(bag.rows, evidence.softmax(dim=0).cpu())
        return Prediction(logits[top].mean(dim=0), (look,), terms={"patches": logits[exists]})

    def objective(
        self, prediction: Prediction, target: Int64[Tensor, ""], loss: Loss
    ) -> Float[Tensor, ""]:
        """Return the mean loss of the patches, with equal weight for those on and off lesions.

        Args:
            prediction: output for one slide; `terms["touching"]` holds whether each valid patch
                touches a lesion.
            target: class of the slide.
            loss: loss of the task; of a batch, the mean.
        """
        logits, touching = prediction.terms["patches"], prediction.terms["touching"]
        labels = torch.where(touching, target, self.negative_class)
        groups = [group for group in (touching, ~touching) if group.any()]
        return torch.stack([loss(logits[group], labels[group]) for group in groups]).mean()
