"""ZoomMIL: attend at low magnification, zoom into the top patches, classify.

Source: Thandiackal, Chen et al., "Differentiable Zooming for Multiple Instance
    Learning on Whole-Slide Images", ECCV 2022. Code: histocartography/zoommil.
Departs: any number of magnifications, where the authors' code has three; patches are given by the
    bag when they are zoomed into, and not all beforehand; the gradient of the top-K is whole.
    `heads="single"` is the authors' poster, `scale_free` is Cordonnier et al., CVPR 2021,
    `hindsight` is ours.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.bag import Bag, Look, Prediction
from parfocal.models.layers.attention import GatedAttention, masked_softmax
from parfocal.models.layers.dropout import Dropout
from parfocal.models.zoommil.hindsight import ExploringTopK, hindsight_loss
from parfocal.models.zoommil.topk import PerturbedTopK

HEADS = ("dual", "single")
# What the authors' three-level model calls its parts, and what they are called here.
OFFICIAL_PARTS = {
    f"{theirs}_{level}_mag": f"{ours}.{step}"
    for theirs, ours in (("fc", "embeds"), ("ga", "attends"), ("aux_ga", "zoom_attention"))
    for step, level in enumerate(("low", "mid", "high"))
} | {"classify_head": "classify"}
OFFICIAL_LAYERS = {"attention_a.0": "value", "attention_b.0": "gate", "attention_c": "score"}


class ZoomMIL(nn.Module):
    """Classify a slide by zooming into the patches that matter.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        num_magnifications: how many bags are looked at, lowest first.
        dim: width of the embedding.
        k: patches zoomed into, at every zoom or one number for each.
        sigma: noise of the differentiable top-K, in units of the scores it gets: attention, or
            0..1 where `scale_free`, for which 0.05 is published.
        num_samples: draws of that noise.
        dropout: of embedding and attention, in training.
        heads: "dual" zooms by an attention of its own, "single" by the one that pools.
        scale_free: zoom by scores min_max_scaled to 0..1, in place of attention, which shrinks as the
            bag grows while `sigma` does not; `sigma` then falls to 0 by `set_progress`.
        hindsight: learn where to zoom from where the sharper attention then fell, in place of
            noise; see `parfocal.models.zoommil.hindsight`. The choice is hard, in training too, and
            there at first of more than `k`; `sigma`, `num_samples` and `jacobian` say nothing.
        jacobian: of the top-K, "full" or "diagonal"; see `PerturbedTopK`.
        generator: of the top-K's noise; None for torch's own.

    Raises:
        ValueError: an argument is none of those allowed.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        num_magnifications: int = 3,
        dim: int = 512,
        k: int | Sequence[int] = 12,
        sigma: float = 2e-3,
        num_samples: int = 100,
        dropout: float = 0.25,
        heads: str = "dual",
        scale_free: bool = False,
        hindsight: bool = False,
        jacobian: str = "full",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_magnifications < 1:
            raise ValueError(f"num_magnifications={num_magnifications}: at least 1 is looked at.")
        if heads not in HEADS:
            raise ValueError(f"heads={heads!r} is unknown; it is one of {HEADS}.")
        zooms = num_magnifications - 1
        ks = (k,) * zooms if isinstance(k, int) else tuple(k)
        if len(ks) != zooms:
            raise ValueError(
                f"k={list(ks)} has {len(ks)} numbers, and {num_magnifications} magnifications are "
                f"{zooms} zooms; give one number for each zoom, or one for all."
            )
        if scale_free and hindsight:
            raise ValueError(
                "scale_free=True, hindsight=True: with hindsight there is no noise to scale the "
                "scores for; leave out one of the two."
            )
        self.scale_free = scale_free
        self.hindsight = hindsight
        self.sigma = sigma
        self.embeds = nn.ModuleList(
            nn.Sequential(nn.Linear(in_dim, dim), nn.ReLU(inplace=True), Dropout(dropout))
            for _ in range(num_magnifications)
        )
        self.attends = nn.ModuleList(
            GatedAttention(dim, dropout=dropout) for _ in range(num_magnifications)
        )
        self.zoom_attention = nn.ModuleList(
            GatedAttention(dim, dropout=dropout) for _ in range(zooms if heads == "dual" else 0)
        )
        self.topks = nn.ModuleList(
            ExploringTopK(each, generator=generator)
            if hindsight
            else PerturbedTopK(
                each, sigma=sigma, num_samples=num_samples, jacobian=jacobian, generator=generator
            )
            for each in ks
        )
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag at the lowest magnification.

        Raises:
            ValueError: the bag has fewer magnifications than the model, or no valid patch.
        """
        pooled, looks, zoom_attention = [], [], []
        attended: list[Tensor] = []
        for step, (embed, attend) in enumerate(zip(self.embeds, self.attends, strict=True)):
            h = embed(bag.features())  # n c
            scores, rows, valid = attend(h), bag.rows, bag.valid.to(h.device)  # n, n, n
            attended.append(masked_softmax(scores, valid))
            pooled.append(attended[-1] @ h)  # c
            if step == len(self.topks):
                looks.append(Look(rows, _shown(attended[-1])))
                continue
            zoom_attention.append(
                self.zoom_attention[step](h) if self.zoom_attention else scores
            )  # n
            aim = masked_softmax(zoom_attention[-1], valid)
            select = self.topks[step](
                min_max_scaled(zoom_attention[-1], valid) if self.scale_free else aim, valid
            )
            selected = None if select.requires_grad else _shown(select.argmax(dim=1))
            looks.append(Look(rows, _shown(attended[-1]), selected, _shown(aim)))
            bag = bag.zoom(select)
        # Summed, so the classifier is the same however many magnifications there are.
        slide = torch.stack(pooled).sum(dim=0)
        terms = {}
        if self.training and self.hindsight:
            chosen = [look.selected for look in looks if look.selected is not None]
            terms["hindsight"] = hindsight_loss(zoom_attention, chosen, attended)
        return Prediction(self.classify(slide), tuple(looks), terms=terms)

    def objective(self, prediction: Prediction, label: Int64[Tensor, ""]) -> Float[Tensor, ""]:
        """Give the cross-entropy, and what hindsight says of the aim."""
        loss = nn.functional.cross_entropy(prediction.logits, label)
        return loss + prediction.terms.get("hindsight", 0.0)

    def set_progress(self, fraction: float) -> None:
        """Say how much of the training is over, 0 to 1.

        With it fades the noise where `scale_free`, and what is zoomed into where `hindsight`.
        """
        for topk in self.topks:
            if isinstance(topk, ExploringTopK):
                topk.set_progress(fraction)
            elif self.scale_free:
                assert isinstance(topk, PerturbedTopK)
                topk.sigma = self.sigma * (1 - fraction)

    def load_official(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take the weights of the authors' model, which has three magnifications and two heads.

        Raises:
            ValueError: a name or a shape in it is not what this model has.
        """
        ours = {_our_name(name): weight for name, weight in state_dict.items()}
        own = self.state_dict()
        for name in sorted(own.keys() | ours.keys()):
            found = tuple(ours[name].shape) if name in ours else "nothing"
            wanted = tuple(own[name].shape) if name in own else "nothing"
            if found != wanted:
                raise ValueError(
                    f"the weights do not fit: for {name} they have {found}, the model {wanted}. "
                    "The authors' model is ZoomMIL(in_dim, num_classes) with three magnifications "
                    "and dual heads; in_dim, num_classes and dim have to be those it was made with."
                )
        self.load_state_dict(ours)


def min_max_scaled(scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Stretch the scores of existing instances to 0..1."""
    lowest, highest = scores[valid].min(), scores[valid].max()
    return (scores - lowest) / (highest - lowest + 1e-5)


def _shown(values: Tensor) -> Tensor:
    return values.detach().cpu()


def _our_name(official: str) -> str:
    """Translate a name such as `aux_ga_low_mag.attention_a.0.weight`; leave an unknown one."""
    part, _, rest = official.partition(".")
    for theirs, ours in OFFICIAL_LAYERS.items():
        rest = rest.replace(theirs, ours)
    return f"{OFFICIAL_PARTS.get(part, part)}.{rest}"
