"""Coarse student: ABMIL at the lowest magnification that learns from a model of the highest.

Source: the second stage of LRMIL, MICCAI 2026, arXiv 2606.06864: a student at low magnification
    learns the logits and the attention of a teacher that encodes every patch at high
    magnification. It reads no higher magnification after training: what it reaches is what zooming
    has to exceed at the same cost.
Departs: the encoder is not trained to imitate that of the teacher (LRMIL's first stage); the terms
    for the most and the least attended patches are left out; the weights of the terms are ours.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import Bag
from parfocal.models.contract import Loss
from parfocal.models.layers.attention import GatedAttention, masked_softmax
from parfocal.models.layers.dropout import Dropout
from parfocal.models.layers.widths import widths_per_magnification
from parfocal.prediction import Look, Prediction

SMALLEST = torch.finfo(torch.float32).tiny  # keeps the logarithm of an attention of 0 finite


class CoarseStudent(nn.Module):
    """Classify a slide from its lowest magnification, and learn from a model of the highest.

    In training, the teacher is run on all patches at the highest magnification. Its logits, and its
    attention summed over the patches inside each patch of the lowest, are targets of the student.

    Args:
        in_dim: number of features per patch, one for all magnifications or one for each, lowest
            first; only the first is used.
        num_classes: number of classes.
        num_magnifications: number of magnifications; the student reads the lowest, the teacher the
            highest.
        dim: width of the embedding.
        hidden_dim: width of the attention's hidden layer.
        dropout: dropout rate in the embedding and in the attention.
        logit_weight: weight of the divergence from the teacher's class probabilities.
        attention_weight: weight of the divergence from the teacher's attention.
        temperature: number by which the logits of both are divided in that divergence.

    Raises:
        ValueError: an argument is invalid.
    """

    needs_teacher = True
    teacher_magnification = -1  # the highest

    def __init__(
        self,
        in_dim: int | Sequence[int],
        num_classes: int,
        *,
        num_magnifications: int = 2,
        dim: int = 512,
        hidden_dim: int = 256,
        dropout: float = 0.25,
        logit_weight: float = 1.0,
        attention_weight: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if num_magnifications < 2:
            raise ValueError(
                f"num_magnifications={num_magnifications}: the student reads the lowest and its "
                "teacher the highest of at least 2; set slide.magnifications, as [1.25, 10]."
            )
        if min(logit_weight, attention_weight) < 0 or temperature <= 0:
            raise ValueError(
                f"logit_weight={logit_weight}, attention_weight={attention_weight}, "
                f"temperature={temperature}: weights are 0 or more, a temperature is more than 0."
            )
        width = widths_per_magnification(in_dim, num_magnifications)[0]
        self.num_magnifications = num_magnifications
        self.logit_weight, self.attention_weight = logit_weight, attention_weight
        self.temperature = temperature
        self.embedder = nn.Sequential(
            nn.Linear(width, dim), nn.ReLU(inplace=True), Dropout(dropout)
        )
        self.attention = GatedAttention(dim, hidden_dim, dropout=dropout)
        self.classifier = nn.Linear(dim, num_classes)
        self._teacher: list[nn.Module] = []  # a list, so that it is no part of this model

    def set_teacher(self, teacher: nn.Module) -> None:
        """Set the trained model to learn from; it is run in evaluation mode and not changed."""
        self._teacher = [teacher.eval()]

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at the lowest magnification.

        Raises:
            ValueError: the bag has no valid patch.
        """
        h = self.embedder(bag.features())  # n c
        attention = masked_softmax(self.attention(h), bag.valid)  # n
        logits = self.classifier(attention @ h)
        terms = {}
        if self.training and self._teacher:
            terms = {"attention": attention, **self._ask_teacher(bag, h.device)}
        return Prediction(logits, (Look(bag.rows, attention.detach().cpu()),), terms=terms)

    def objective(self, prediction: Prediction, target: Tensor, loss: Loss) -> Float[Tensor, ""]:
        """Return the loss of the task plus the divergences from the teacher.

        In classification, where the loss of the task is the cross-entropy, the divergence from its
        output is that of Kullback and Leibler between class probabilities, times the square of the
        temperature; otherwise it is the mean squared difference.
        """
        total: Tensor = loss(prediction.logits, target)
        terms = prediction.terms
        if "teacher_logits" not in terms:
            return total
        answer = terms["teacher_logits"]
        if loss is F.cross_entropy:
            t = self.temperature
            own = (prediction.logits / t).log_softmax(dim=0)
            probabilities = (answer / t).softmax(dim=0)
            output = t**2 * F.kl_div(own, probabilities, reduction="sum")
        else:
            output = F.mse_loss(prediction.logits, answer)
        looked = terms["teacher_attention"]
        attended = F.kl_div(terms["attention"].clamp_min(SMALLEST).log(), looked, reduction="sum")
        return total + self.logit_weight * output + self.attention_weight * attended

    def _ask_teacher(self, bag: Bag, device: torch.device) -> dict[str, Tensor]:
        """Return the teacher's logits, and its attention summed by patch of the lowest level."""
        (teacher,) = self._teacher
        highest = bag
        for _ in range(self.num_magnifications - 1):
            highest = highest.zoom(None)
        with torch.no_grad():
            answer = teacher.to(device)(highest)
        by_parent = answer.looks[-1].score.to(device).view(len(bag.rows), -1).sum(dim=1)
        by_parent = by_parent * bag.valid.to(device)
        return {
            "teacher_logits": answer.logits.detach(),
            "teacher_attention": by_parent / by_parent.sum().clamp_min(SMALLEST),
        }
