"""MagNet: zoom into squares layer by layer, then classify the last ones in sequence.

Source: Dimitriou & Arandjelović, "Magnifying Networks for Images with Billions of Pixels",
    arXiv 2112.06121 (2023). Neither the code nor the paper's appendix is public.
Departs: docs/methods.md lists what the paper leaves open and what we chose. Gray pixels are
    removed from the crops at the size at which they are read; the default backbones are
    EfficientNet-Lite0; `hindsight` and early exit are ours.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.bag import PixelSource
from parfocal.models.choice import require_choice
from parfocal.models.contract import Loss
from parfocal.models.layers.backbone import Backbone
from parfocal.models.layers.passes import Passes, StepMemory
from parfocal.models.magnet.classifiers import AuxiliaryClassifier, LeafAggregator
from parfocal.models.magnet.hindsight import Explorer, imitation_loss
from parfocal.models.magnet.looks import predictions_of
from parfocal.models.magnet.search import SearchConfig, SearchResult, SquareSearch
from parfocal.prediction import Prediction

PARADOXICAL_LOSSES = ("hinge", "prob")
EXIT_TOLERANCE = 0.01  # largest change of a probability that counts as no change


class MagNet(nn.Module):
    """Classify slides by zooming into squares inside squares, trained on slide labels alone.

    The slide is padded to a square and downscaled to a picture of 56 pixels. Each layer chooses
    squares of any position and size in the pictures of the layer before. These squares are read
    from the slide at the resolution that fits their size, and sampled as the pictures of the next
    layer. The squares of the last layer, the leaves, are encoded and classified in sequence by a
    GRU.

    Args:
        num_classes: number of classes.
        patches: number of squares to choose in each picture, for each layer.
        frozen_patch: whether the first square of each picture in the second layer is always the
            whole picture.
        scale_estimator: how the size of a square is computed from its attention map: "moments" from
            the variance of the positions, "score" from the mean of the logits.
        logit_scale: factor of the attention map's logits; with a larger factor, new layers choose
            smaller squares.
        sampler: how squares are sampled: "linearized" or "bilinear".
        fixed_bias: whether the linearized sampler returns the bilinear value in training; if
            False, a noisy value, as in the code of its authors.
        nested_gradient: "detached" trains each square through its own picture only; "chain"
            also passes the gradient on to the squares that contain it.
        picture_px: side of the pictures in pixels; each is sampled from a crop twice as wide.
        leaf_px: side of the leaves, the squares of the last layer, in pixels.
        low_resolution_leaves: whether leaves are sampled from crops twice as wide as a picture, as
            in the paper; if False, from crops twice as wide as a leaf.
        gray_spread: range (maximum minus minimum) of red, green and blue below which a pixel is
            gray and becomes black; 0 to keep all pixels.
        backbone: network that encodes the leaves: "efficientnet-lite0", "efficientnet-lite0-stem",
            "small", "timm:NAME" or "timm:NAME=FILE".
        auxiliary_backbone: network of the two auxiliary classifiers, which classify the pictures
            sampled by layer 1 and by layer 3 (or 2, if there are only two); null for none.
        hidden_dim: width of the GRU.
        auxiliary_weight: weight of the auxiliary losses in the objective.
        paradoxical_weight: weight of the paradoxical loss in the objective.
        paradoxical_loss: "hinge" on the losses of the auxiliary classifiers, or "prob" on their
            probabilities of the true class.
        hindsight: smallest half side of the random squares visited in training, relative to the
            picture that contains them; attention over the leaves then trains the layers. 0 to train
            without random squares. See `parfocal.models.magnet.hindsight`.
        random_share: share of the squares that are random at the start of training with
            `hindsight`; lower it for a second training that starts from the first
            (`train.init_from`).
        random_until: completed fraction of the training at which that share has fallen to 0.
        early_exit_patience: after training, stop once the probabilities have not changed over this
            number of leaves; 0 to read all leaves.
        gradient_checkpointing: whether activations of the backbones are always recomputed in the
            backward pass; if False, only if a batch does not fit into memory otherwise.
        generator: random number generator for training; None for the global one.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        patches: Sequence[int] = (2, 3, 3),
        frozen_patch: bool = True,
        scale_estimator: str = "moments",
        logit_scale: float = 10.0,
        sampler: str = "linearized",
        fixed_bias: bool = True,
        nested_gradient: str = "detached",
        picture_px: int = 56,
        leaf_px: int = 224,
        low_resolution_leaves: bool = False,
        gray_spread: int = 15,
        backbone: str = "efficientnet-lite0",
        auxiliary_backbone: str | None = "efficientnet-lite0",
        hidden_dim: int = 512,
        auxiliary_weight: float = 1.0,
        paradoxical_weight: float = 1.0,
        paradoxical_loss: str = "hinge",
        hindsight: float = 0.0,
        random_share: float = 0.8,
        random_until: float = 0.8,
        early_exit_patience: int = 0,
        gradient_checkpointing: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require_choice("paradoxical_loss", paradoxical_loss, PARADOXICAL_LOSSES)
        self.auxiliary_weight, self.paradoxical_weight = auxiliary_weight, paradoxical_weight
        self.paradoxical_loss = paradoxical_loss
        self.early_exit_patience = early_exit_patience
        config = SearchConfig(
            tuple(patches),
            frozen_patch,
            scale_estimator,
            logit_scale,
            sampler,
            fixed_bias,
            nested_gradient,
            picture_px,
            leaf_px,
            low_resolution_leaves,
            gray_spread,
        )
        self.search = SquareSearch(config, generator=generator)
        self.aggregator = LeafAggregator(
            backbone,
            num_classes,
            num_leaves=math.prod(patches),
            hidden_dim=hidden_dim,
        )
        self.explorer = None
        if hindsight:
            self.explorer = Explorer(
                self.aggregator.encoder.dim,
                num_classes,
                min_scale=hindsight,
                random_share=random_share,
                random_until=random_until,
                generator=generator,
            )
        # Positions among the outputs of the layers; the paper classifies those of layers 1 and 3.
        self.auxiliary_layers = () if auxiliary_backbone is None else (0, min(2, len(patches) - 1))
        self.auxiliary = nn.ModuleList(
            AuxiliaryClassifier(
                str(auxiliary_backbone), num_classes, num_pictures=math.prod(patches[: layer + 1])
            )
            for layer in self.auxiliary_layers
        )
        self.gradient_checkpointing = gradient_checkpointing
        self.set_passes(Passes(None, gradient_checkpointing))

    @property
    def encoder(self) -> nn.Module:
        """Network that encodes a leaf."""
        return self.aggregator.encoder

    @property
    def gray_spread(self) -> int:
        """Range of the three colors of a pixel below which it counts as gray."""
        return self.search.config.gray_spread

    def load_pretrained(self) -> None:
        """Load the published weights of the backbones.

        Raises:
            EncoderError: the weights cannot be loaded.
        """
        for backbone in self._backbones:
            backbone.load_pretrained()

    def set_passes(self, passes: Passes) -> None:
        """Set how the backbones are run on a batch of slides in training."""
        for backbone in self._backbones:
            backbone.set_passes(passes)

    def step_memory(self) -> StepMemory:
        """Measure the memory that the activations of a training step need."""
        layers = (len(self.search.layers) - 1, *self.auxiliary_layers)
        sides = [self.search.config.sides_px[layer + 1] for layer in layers]
        backbones = zip(self._backbones, sides, strict=True)
        return StepMemory(
            tuple(backbone.memory(side, side) for backbone, side in backbones),
            per_slide=self.search.bytes_per_slide(),
            working=self.search.working_bytes(),
        )

    @property
    def _backbones(self) -> tuple[Backbone, ...]:
        return tuple(module for module in self.modules() if isinstance(module, Backbone))

    def set_progress(self, fraction: float) -> None:
        """Set the completed fraction of the training, from 0 to 1."""
        if self.explorer is not None:
            self.explorer.set_progress(fraction)

    def forward(self, sources: Sequence[PixelSource]) -> Prediction:
        """Classify slides, which may differ in size.

        Raises:
            NoTissueError: all pixels of a slide are gray.
        """
        early_exit = self.early_exit_patience > 0 and not self.training
        if early_exit and len(sources) > 1:  # each slide stops by itself
            return Prediction.stack([self([source]).slides[0] for source in sources])
        explorer = self.explorer if self.training else None
        result = self.search(sources, explorer, one_by_one=early_exit)
        state, parts = None, []
        for leaves in self.search.leaves(sources, result, one_by_one=early_exit):
            features = self.aggregator.encode(leaves)
            part, state = self.aggregator(features, state)
            parts.append(part)
            if early_exit and _is_stable(torch.cat(parts, dim=1), self.early_exit_patience):
                break
        logits = torch.cat(parts, dim=1)  # b n c
        terms = self._training_terms(result, leaves, features) if self.training else {}
        members = predictions_of(sources, result.squares, logits, self.search.config)
        return Prediction(logits[:, -1], terms=terms, members=members)

    def _training_terms(
        self,
        result: SearchResult,
        leaves: Float[Tensor, "b n 3 h w"],
        features: Float[Tensor, "b n d"],
    ) -> dict[str, Tensor]:
        """Return what `objective` needs besides the logits."""
        terms = {}
        if self.auxiliary:
            outputs = (*result.pictures[1:], leaves)
            logits = [
                classifier(outputs[layer])
                for classifier, layer in zip(self.auxiliary, self.auxiliary_layers, strict=True)
            ]
            terms["auxiliary_logits"] = torch.stack(logits, dim=1)  # b 2 c
        if self.explorer is not None:
            attention, terms["leaf_logits"] = self.explorer.classify_leaves(features)
            terms["imitation"] = imitation_loss(result.chosen, result.visited, attention)
        return terms

    def objective(self, prediction: Prediction, target: Tensor, loss: Loss) -> Float[Tensor, ""]:
        """Return the sum of the final, auxiliary and paradoxical losses, and those of hindsight.

        The paradoxical loss of a slide is max(0, L_3 - stop(L_1)), or max(0, stop(p_1) - p_3) with
        p = exp(-L): the pictures of layer 3 should be classified at least as well as those of layer
        1. No gradient makes layer 1 worse. With hindsight, the loss of the logits from attention
        over the leaves and the imitation loss are added.
        """
        total = loss(prediction.logits, target)
        if "leaf_logits" in prediction.terms:
            total = total + loss(prediction.terms["leaf_logits"], target)
            total = total + prediction.terms["imitation"].mean()
        if "auxiliary_logits" not in prediction.terms:
            return total
        first, third = (
            torch.stack([loss(row, label) for row, label in zip(logits, target, strict=True)])
            for logits in prediction.terms["auxiliary_logits"].unbind(dim=1)
        )
        if self.paradoxical_loss == "hinge":
            excess = third - first.detach()
        else:
            excess = (-first.detach()).exp() - (-third).exp()
        total = total + self.auxiliary_weight * (first.mean() + third.mean())
        return total + self.paradoxical_weight * excess.relu().mean()


def _is_stable(logits: Float[Tensor, "b n c"], patience: int) -> bool:
    """Return whether no probability changed by more than a tolerance over the last leaves."""
    latest = logits[:, -patience - 1 :].softmax(dim=-1)
    if latest.shape[1] <= patience:
        return False
    return bool((latest.amax(dim=1) - latest.amin(dim=1) <= EXIT_TOLERANCE).all())
