"""ZoomMIL: attend at low magnification, zoom into the top patches, classify.

Source: Thandiackal, Chen et al., "Differentiable Zooming for Multiple Instance
    Learning on Whole-Slide Images", ECCV 2022. Code: histocartography/zoommil.
Departs: any number of magnifications, where the authors' code has three; the features of a patch
    are read when the model zooms into it, not all beforehand; the gradient of the top-K uses the
    whole Jacobian. `heads="single"` follows the authors' poster, `scale_free` follows
    Cordonnier et al., CVPR 2021, and `hindsight` and `context` are ours.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from parfocal.bag import Bag, inherited
from parfocal.models.choice import require_choice
from parfocal.models.contract import Loss
from parfocal.models.layers.attention import GatedAttention, masked_softmax
from parfocal.models.layers.choosing import choose
from parfocal.models.layers.dropout import Dropout
from parfocal.models.layers.widths import widths_per_magnification
from parfocal.models.zoommil.context import build_context
from parfocal.models.zoommil.hindsight import Exploration, ExploringTopK, hindsight_loss
from parfocal.models.zoommil.topk import PerturbedTopK
from parfocal.prediction import Look, Prediction

HEADS = ("dual", "single")
# Names of modules in the authors' model of three magnifications, and their names here.
OFFICIAL_MODULES = {
    f"{official}_{magnification}_mag": f"{ours}.{step}"
    for official, ours in (("fc", "embedders"), ("ga", "attention"), ("aux_ga", "zoom_attention"))
    for step, magnification in enumerate(("low", "mid", "high"))
} | {"classify_head": "classifier"}
OFFICIAL_LAYERS = {"attention_a.0": "value", "attention_b.0": "gate", "attention_c": "score"}


class ZoomMIL(nn.Module):
    """Classify a slide by zooming into the patches that matter.

    At each magnification, the patches are embedded and pooled by attention. At each but the
    highest, the top K patches by zoom attention are selected, and their children are read at the
    next. The sum of the pooled embeddings is classified.

    Args:
        in_dim: number of features per patch, one for all magnifications or one for each, lowest
            first.
        num_classes: number of classes.
        num_magnifications: number of magnifications.
        dim: width of the embedding.
        k: number of patches to zoom into: one number for every zoom, or a list with one for each.
        sigma: standard deviation of the noise in the top-K, in units of its scores: attention
            weights, or min-max scaled scores if `scale_free` (published with 0.05).
        num_samples: number of noise samples in the top-K.
        dropout: dropout rate in the embeddings and in the attention.
        heads: "dual" for separate attention heads for pooling and zooming; "single" for one head
            that does both.
        scale_free: whether the top-K uses scores min-max scaled to 0..1, with noise that falls to 0
            during training; if False, it uses attention weights, which get smaller the more patches
            a slide has while `sigma` stays the same.
        hindsight: whether to learn the zoom attention from the attention at higher magnifications
            instead of through noise; see `parfocal.models.zoommil.hindsight`. If True, `sigma`,
            `num_samples` and `jacobian` have no effect, and the first epochs zoom into more than
            `k` patches.
        random_share: probability, in training with `hindsight`, that a patch is preferred to all
            others regardless of its score.
        start_share: share of the patches to zoom into at the start of training with `hindsight`.
        fall_start: completed fraction of the training at which `start_share` starts to fall.
        fall_end: completed fraction of the training from which on only `k` patches are left.
        fall_power: power by which the share falls in between: 1 is linear, 2 quadratic.
        context: what a patch inherits from the patch that contains it: "none", as published;
            "parent", a linear function of its embedding; "recurrent", the state of a GRU that is
            carried from magnification to magnification.
        jacobian: gradient of the top-K, "full" or "diagonal"; see `PerturbedTopK`.
        generator: random generator on the CPU for the top-K; None for PyTorch's default.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        in_dim: int | Sequence[int],
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
        random_share: float = 0.2,
        start_share: float = 0.3,
        fall_start: float = 0.2,
        fall_end: float = 0.6,
        fall_power: float = 2.0,
        context: str = "none",
        jacobian: str = "full",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        ks = _k_per_zoom(k, num_magnifications)
        require_choice("heads", heads, HEADS)
        if scale_free and hindsight:
            raise ValueError(
                "scale_free=True, hindsight=True: hindsight selects without noise, for which "
                "scale_free scales the scores; set only one of the two."
            )
        exploration = Exploration(random_share, start_share, fall_start, fall_end, fall_power)
        self.scale_free = scale_free
        self.hindsight, self.start_share = hindsight, start_share
        self.sigma = sigma
        self.embedders = nn.ModuleList(
            nn.Sequential(nn.Linear(width, dim), nn.ReLU(inplace=True), Dropout(dropout))
            for width in widths_per_magnification(in_dim, num_magnifications)
        )
        self.attention = nn.ModuleList(
            GatedAttention(dim, dropout=dropout) for _ in range(num_magnifications)
        )
        self.zoom_attention = nn.ModuleList(
            GatedAttention(dim, dropout=dropout) for _ in (ks if heads == "dual" else ())
        )
        self.topks = nn.ModuleList(
            ExploringTopK(each, exploration=exploration, generator=generator)
            if hindsight
            else PerturbedTopK(
                each, sigma=sigma, num_samples=num_samples, jacobian=jacobian, generator=generator
            )
            for each in ks
        )
        self.classifier = nn.Linear(dim, num_classes)
        # Built last, so that the weights of the other parts are those of a model without context.
        self.context = build_context(context, dim, num_magnifications - 1)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at the lowest magnification.

        Raises:
            ValueError: the bag has fewer magnifications than the model, or no valid patch.
        """
        pooled, looks = [], []
        attention: list[Tensor] = []  # by magnification
        zoom_scores: list[Tensor] = []  # by zoom
        parents: Tensor | None = None  # state of the parent of each patch
        for step in range(len(self.embedders)):
            h, states = self._embed(step, bag.features(), parents)  # n c, n c
            rows, valid = bag.rows, bag.valid.to(h.device)  # n, n
            scores = self.attention[step](h)  # n
            weights = masked_softmax(scores, valid)  # n
            attention.append(weights)
            pooled.append(weights @ h)  # c
            if step == len(self.topks):
                looks.append(Look(rows, _on_cpu(weights)))
                break
            zoom_scores.append(self.zoom_attention[step](h) if self.zoom_attention else scores)
            zoom_weights = masked_softmax(zoom_scores[step], valid)  # n
            select = choose(
                bag,
                self.topks[step],
                min_max_scaled(zoom_scores[step], valid) if self.scale_free else zoom_weights,
                valid,
            )  # k n
            if select is None:  # the budget is spent, or the answer settled
                looks.append(Look(rows, _on_cpu(weights)))
                zoom_scores.pop()
                break
            # Rows with a gradient are mixtures, which stand for no single patch.
            selected = None if select.requires_grad else _on_cpu(select.argmax(dim=1))
            looks.append(Look(rows, _on_cpu(weights), selected, _on_cpu(zoom_weights)))
            bag = bag.zoom(select)
            parents = None if self.context is None else inherited(states, select, bag)
        # A sum, so that the classifier is the same for any number of magnifications.
        slide = torch.stack(pooled).sum(dim=0)
        terms = {}
        if self.training and self.hindsight:
            positions = [look.selected for look in looks if look.selected is not None]
            terms["hindsight"] = hindsight_loss(zoom_scores, positions, attention)
        return Prediction(self.classifier(slide), tuple(looks), terms=terms)

    def _embed(
        self, step: int, features: Float[Tensor, "n d"], parents: Float[Tensor, "n c"] | None
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
        """Return the embeddings of patches, and the states that their children inherit."""
        embed = self.embedders[step]
        if self.context is None:
            h = embed(features)
            return h, h
        embedded: tuple[Tensor, Tensor] = self.context(step, embed, features, parents)
        return embedded

    def objective(self, prediction: Prediction, target: Tensor, loss: Loss) -> Float[Tensor, ""]:
        """Return the loss of the task, plus the hindsight loss if `hindsight`."""
        total: Tensor = loss(prediction.logits, target)
        return total + prediction.terms.get("hindsight", 0.0)

    def set_progress(self, fraction: float) -> None:
        """Set the completed fraction of the training, from 0 to 1.

        It reduces the noise if `scale_free`, and the number of patches to zoom into if `hindsight`.
        """
        for topk in self.topks:
            if isinstance(topk, ExploringTopK):
                topk.set_progress(fraction)
            elif self.scale_free:
                assert isinstance(topk, PerturbedTopK)
                topk.sigma = self.sigma * (1 - fraction)

    def load_official(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the weights of the authors' model, which has three magnifications and dual heads.

        Args:
            state_dict: weights under the names of the authors' code.

        Raises:
            ValueError: a name or a shape does not match this model.
        """
        weights = {_translate_name(name): weight for name, weight in state_dict.items()}
        own = self.state_dict()
        for name in sorted(own.keys() | weights.keys()):
            found = tuple(weights[name].shape) if name in weights else "missing"
            expected = tuple(own[name].shape) if name in own else "no such weight"
            if found != expected:
                raise ValueError(
                    f"the weights do not fit the model: {name} is {found} in the weights and "
                    f"{expected} in the model. The authors' model is ZoomMIL(in_dim, num_classes) "
                    "with three magnifications and dual heads; use the in_dim, num_classes and dim "
                    "it was trained with."
                )
        self.load_state_dict(weights)


def min_max_scaled(scores: Float[Tensor, " n"], valid: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Scale scores linearly, so that those of valid patches range from 0 to 1."""
    lowest, highest = scores[valid].min(), scores[valid].max()
    return (scores - lowest) / (highest - lowest + 1e-5)


def _k_per_zoom(k: int | Sequence[int], num_magnifications: int) -> tuple[int, ...]:
    if num_magnifications < 1:
        raise ValueError(f"num_magnifications={num_magnifications}: at least 1 is needed.")
    zooms = num_magnifications - 1
    ks = (k,) * zooms if isinstance(k, int) else tuple(k)
    if len(ks) != zooms:
        raise ValueError(
            f"k={list(ks)} has {len(ks)} numbers, but {num_magnifications} magnifications have "
            f"{zooms} zooms; give one number for each zoom, or one for all."
        )
    return ks


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().cpu()


def _translate_name(official: str) -> str:
    """Return our name of a weight such as `aux_ga_low_mag.attention_a.0.weight`."""
    module, _, rest = official.partition(".")
    for theirs, ours in OFFICIAL_LAYERS.items():
        rest = rest.replace(theirs, ours)
    return f"{OFFICIAL_MODULES.get(module, module)}.{rest}"
