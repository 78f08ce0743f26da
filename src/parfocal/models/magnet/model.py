"""MagNet: find where to look closer, again and again, then read the places found in order.

Source: Dimitriou & Arandjelović, "Magnifying Networks for Images with Billions of Pixels",
    arXiv 2112.06121 (2023). No code is public, and the appendix is not.
Departs: docs/methods.md lists what the paper leaves open and what was chosen. Gray is filtered from
    regions as read, at the size asked for; the backbones are EfficientNet-Lite0 by default;
    `hindsight` is ours.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float, Int64
from torch import Tensor, nn

from parfocal.bag import Look, PixelSource, Prediction
from parfocal.models.layers.backbone import Backbone
from parfocal.models.layers.crops import Crops, places_of
from parfocal.models.layers.magnify import WHOLE, MagnifyingLayer, within
from parfocal.models.magnet.imitation import Explorer, imitation_loss
from parfocal.models.magnet.leaves import AuxiliaryClassifier, Reader
from parfocal.models.magnet.multisampling import LinearizedSampler, bilinear
from parfocal.slide.errors import NoTissueError

CHOICES = {
    "sampler": ("linearized", "bilinear"),
    "gradient": ("detached", "chain"),
    "paradox": ("hinge", "prob"),
}
SETTLED = 0.01  # how little a settled prediction changes


class MagNet(nn.Module):
    """Classify slides by magnifying squares of squares of them, as learned from the label alone.

    A slide is padded to a square, and looked at as a picture of 56 pixels. Each layer chooses
    squares in the pictures of the one before, at any place and of any size, and samples them, as
    the pictures of the next, from the slide read again at the sharpness their size asks for. The
    squares of the last layer, the leaves, are encoded and read in order by a GRU.

    Args:
        num_classes: slide labels.
        patches: squares chosen in each picture, layer by layer.
        frozen: whether the first square of each picture of the second layer is all of it.
        scaling: what the size of a square is derived from, "moments" or "score".
        temperature: of the sparsemax, see `MagnifyingLayer`.
        sampler: "linearized" or "bilinear".
        fixed_bias: see `LinearizedSampler`.
        gradient: "detached" trains each square by its own picture; by "chain" those around it
            move with it, and are trained by it as well.
        side: of a picture in pixels; it is sampled from a square read at twice that.
        leaf_side: of a leaf.
        literal: sample leaves, too, from squares of twice the side of a picture, as the paper is
            written; otherwise of twice the leaf's.
        gray_spread: pixels whose colors lie closer together become black; 0 for none.
        backbone: of the leaves.
        auxiliary: backbone of the two auxiliary classifiers, on the pictures of layers 1 and 3 (or
            the last, where there are but two); None for no such classifiers.
        hidden_dim: of the GRU.
        auxiliary_weight: of their losses.
        paradox_weight: of the paradoxical loss.
        paradox: "hinge" on the cross-entropies, or "prob" on the label's probabilities.
        hindsight: learn where to look also from squares drawn at random, down to this share of the
            picture around them, and from what was found there; 0 for never. After training
            nothing is different. See `parfocal.models.magnet.imitation`.
        early_exit_patience: answer early, after training, once the running prediction rested for so many
            leaves; 0 for never.
        gradient_checkpointing: compute activations of leaves again going back, to save memory.
        generator: of all draws; None for torch's own.

    Raises:
        ValueError: an argument is none of those allowed.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        patches: Sequence[int] = (2, 3, 3),
        frozen: bool = True,
        scaling: str = "moments",
        temperature: float = 10.0,
        sampler: str = "linearized",
        fixed_bias: bool = True,
        gradient: str = "detached",
        side: int = 56,
        leaf_side: int = 224,
        literal: bool = False,
        gray_spread: int = 15,
        backbone: str = "efficientnet-lite0",
        auxiliary: str | None = "efficientnet-lite0",
        hidden_dim: int = 512,
        auxiliary_weight: float = 1.0,
        paradox_weight: float = 1.0,
        paradox: str = "hinge",
        hindsight: float = 0.0,
        early_exit_patience: int = 0,
        gradient_checkpointing: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(patches) < 2:
            raise ValueError(
                f"patches={list(patches)}: give a number for each of 2 or more layers."
            )
        for name, value in (("sampler", sampler), ("gradient", gradient), ("paradox", paradox)):
            if value not in CHOICES[name]:
                raise ValueError(f"{name}={value!r} is unknown; it is one of {CHOICES[name]}.")
        self.patches, self.frozen = tuple(patches), frozen
        self.chained, self.gray_spread = gradient == "chain", gray_spread
        self.auxiliary_weight, self.paradox_weight = auxiliary_weight, paradox_weight
        self.paradox, self.early_exit_patience = paradox, early_exit_patience
        self.sides = (side, *(side for _ in patches[1:]), leaf_side)
        self.read_sides = tuple(2 * (side if literal else each) for each in self.sides[1:])
        self.layers = nn.ModuleList(
            MagnifyingLayer(
                math.prod(patches[:number]),
                slots,
                frozen=frozen and number == 1,
                scaling=scaling,
                temperature=temperature,
            )
            for number, slots in enumerate(patches)
        )
        linearized = LinearizedSampler(fixed_bias=fixed_bias, generator=generator)
        self.sample: Callable[[Tensor, Tensor], Tensor]
        self.sample = linearized if sampler == "linearized" else bilinear
        self.read = Reader(
            backbone,
            num_classes,
            hidden_dim=hidden_dim,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.explorer = None
        if hindsight:
            self.explorer = Explorer(
                self.read.encode.dim, num_classes, smallest=hindsight, generator=generator
            )
        # The layers whose pictures are classified by themselves: 1 and 3, as far as there are.
        self.glanced = () if auxiliary is None else (0, min(2, len(patches) - 1))
        self.glances = nn.ModuleList(
            AuxiliaryClassifier(str(auxiliary), num_classes) for _ in self.glanced
        )

    @property
    def encode(self) -> nn.Module:
        """What encodes a leaf."""
        return self.read.encode

    def load_pretrained(self) -> None:
        """Take the published weights of the backbones.

        Raises:
            EncoderError: they cannot be had.
        """
        for part in self.modules():
            if isinstance(part, Backbone):
                part.load_pretrained()

    def set_progress(self, fraction: float) -> None:
        """Say how much of the training is over, 0 to 1; fewer and fewer squares are random."""
        if self.explorer is not None:
            self.explorer.set_progress(fraction)

    def forward(self, sources: Sequence[PixelSource]) -> Prediction:
        """Classify slides; each square is read as sharp as its size asks for.

        Raises:
            NoTissueError: nothing of a slide is left by the gray filter.
        """
        if self._exits and len(sources) > 1:  # each slide as soon as its own prediction rests
            return Prediction.together([self([source]).slides[0] for source in sources])
        search = self._search(sources)
        memory, said = None, []
        for leaves in self._leaves(sources, search):
            features = self.read.encoded(leaves)
            logits, memory = self.read(features, memory)
            said.append(logits)
            if self._exits and _rests(torch.cat(said, dim=1), self.early_exit_patience):
                break
        terms = {}
        if self.training and self.glances:
            seen = (*search.pictures[1:], leaves)
            each = [g(seen[at]) for g, at in zip(self.glances, self.glanced, strict=True)]
            terms["glances"] = torch.stack(each, dim=1)  # b 2 c
        if self.training and self.explorer is not None:
            attention, terms["judged"] = self.explorer.judge(features)
            terms["imitation"] = imitation_loss(search.zoom_attention, search.taken, attention)
        return self._prediction(sources, search.squares, torch.cat(said, dim=1), terms)

    def objective(self, prediction: Prediction, label: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
        """Add up the cross-entropies of the answer and of both glances, and the paradoxical loss.

        That of a slide is max(0, CE_3 - stop(CE_1)), or max(0, stop(p_1) - p_3) of the label: a
        look at layer 3 has to be worth one at layer 1. Layer 1 is not taught to be worse. With
        hindsight, also the cross-entropy of what attention falls on, and what squares are apart
        from those it falls into.
        """
        loss: Tensor = F.cross_entropy(prediction.logits, label)
        if "judged" in prediction.terms:
            loss = loss + F.cross_entropy(prediction.terms["judged"], label)
            loss = loss + prediction.terms["imitation"].mean()
        if "glances" not in prediction.terms:
            return loss
        glances = prediction.terms["glances"].transpose(1, 2)  # b c 2
        both = F.cross_entropy(glances, label[:, None].expand(-1, 2), reduction="none")
        first, third = both.unbind(dim=1)
        if self.paradox == "hinge":
            worse = third - first.detach()
        else:
            worse = (-first.detach()).exp() - (-third).exp()
        loss += self.auxiliary_weight * (first.mean() + third.mean())
        return loss + self.paradox_weight * worse.relu().mean()

    @property
    def _exits(self) -> bool:
        return self.early_exit_patience > 0 and not self.training

    def _search(self, sources: Sequence[PixelSource]) -> "_Search":
        """Choose squares layer by layer, and look at all but the last."""
        whole = next(self.parameters()).new_tensor(WHOLE).repeat(len(sources), 1, 1)
        squares, crops = [whole], self._ask(sources, whole, 0)
        pictures = [crops.pictures(crops.images(self.gray_spread), self.sides[0])]
        self._refuse_black(sources, pictures[0])
        zoom_attention, taken = [], []
        for number, layer in enumerate(self.layers):
            around = squares[-1] if self.chained else squares[-1].detach()
            zoom_attention.append(layer(pictures[-1]))
            taken.append(self._explored(zoom_attention[-1], number))
            chosen = within(around[:, :, None], taken[-1])  # b n p 3
            squares.append(chosen.flatten(1, 2))
            if number + 1 < len(self.layers):
                # Read while this layer's pictures are sampled, and the next squares chosen.
                following = self._ask(
                    sources, squares[-1][:, : self._at_once(number + 1)], number + 1
                )
                pictures.append(self._sampled(crops, chosen, self.sides[number + 1]))
                crops = following
        return _Search(squares, pictures, crops, chosen, zoom_attention, taken)

    def _explored(self, chosen: Float[Tensor, "b n p 3"], number: int) -> Float[Tensor, "b n p 3"]:
        """Put squares drawn at random in place of some, where that is asked for."""
        if self.explorer is None or not self.training:
            return chosen
        return self.explorer.explored(chosen, frozen=self.frozen and number == 1)

    def _refuse_black(
        self, sources: Sequence[PixelSource], pictures: Float[Tensor, "b 1 3 h w"]
    ) -> None:
        for source, picture in zip(sources, pictures, strict=True):
            if not picture.any():
                width, height = source.size
                raise NoTissueError(
                    f"nothing of the slide of {width} x {height} px is colored at the "
                    f"{self.sides[0]} px of its first look, so there is nowhere to look closer; "
                    "set model.gray_spread=0 if its tissue is gray, and cut a slide that is long "
                    "and thin into pieces."
                )

    def _leaves(
        self, sources: Sequence[PixelSource], search: "_Search"
    ) -> Iterator[Float[Tensor, "b n 3 h w"]]:
        """Look at the squares of the last layer, in order; all at once unless it may exit."""
        last = len(self.layers) - 1
        parts = torch.split(search.chosen, self._at_once(last), dim=1)
        around = torch.split(search.squares[-2], self._at_once(last), dim=1)
        waiting = search.crops
        for number, chosen in enumerate(parts):
            crops = waiting
            if number + 1 < len(parts):
                waiting = self._ask(sources, around[number + 1], last)
            yield self._sampled(crops, chosen, self.sides[-1])

    def _at_once(self, layer: int) -> int:
        """How many of a layer's squares are read together."""
        last = layer + 1 == len(self.layers)
        return 1 if self._exits and last else math.prod(self.patches[:layer])

    def _ask(
        self, sources: Sequence[PixelSource], squares: Float[Tensor, "b n 3"], layer: int
    ) -> Crops:
        return Crops.request(sources, squares, side=self.read_sides[layer], step=layer)

    def _sampled(
        self, crops: Crops, chosen: Float[Tensor, "b n p 3"], side: int
    ) -> Float[Tensor, "b m 3 s s"]:
        """Sample squares from those around them."""
        grid = crops.grid(chosen, side).flatten(0, 1)  # bn p s s 2
        views = self.sample(crops.images(self.gray_spread).flatten(0, 1), grid)  # bn p 3 s s
        return views.reshape(len(chosen), -1, *views.shape[2:])

    def _prediction(
        self,
        sources: Sequence[PixelSource],
        squares: Sequence[Float[Tensor, "b _ 3"]],
        logits: Float[Tensor, "b n c"],
        terms: Mapping[str, Tensor],
    ) -> Prediction:
        """Tell the answers, and where each slide was looked at."""
        running, total = logits.detach().softmax(dim=-1).cpu(), squares[-1].shape[1]
        reason = "every leaf was read"
        if logits.shape[1] < total:
            reason = f"settled after {logits.shape[1]} of {total} leaves"
        members = []
        for number, source in enumerate(sources):
            looks = self._looks(source, [each[number] for each in squares], running[number])
            members.append(
                Prediction(
                    logits[number, -1],
                    looks,
                    stop_reason=reason,
                    running=running[number],
                )
            )
        return Prediction(logits[:, -1], terms=terms, members=tuple(members))

    def _looks(
        self,
        source: PixelSource,
        squares: Sequence[Float[Tensor, "_ 3"]],
        running: Float[Tensor, "n c"],
    ) -> tuple[Look, ...]:
        """Tell where a slide was looked at: the whole, and the squares of each layer."""
        looks, predicted = [], running[-1].argmax()
        for layer, each in enumerate(squares):
            leaves = layer == len(self.layers)
            count = len(running) if leaves else len(each)
            rows = torch.arange(count)
            places = places_of(
                source,
                each[:count],
                side=self.sides[layer],
                parents=rows // self.patches[layer - 1] if layer else None,
            )
            looks.append(
                Look(
                    rows,
                    running[:, predicted] if leaves else torch.full((count,), 1 / count),
                    selected=None if leaves else rows,
                    places=places,
                    score_kind="running" if leaves else "square",
                )
            )
        return tuple(looks)


@dataclass(frozen=True)
class _Search:
    """What was chosen and seen on the way to the leaves.

    Args:
        squares: the whole, and those of each layer.
        pictures: that each layer looked at.
        crops: the first of the squares around the leaves, being read.
        chosen: the leaves, by the square around them.
        zoom_attention: what each layer chose, within its pictures.
        taken: what was looked at in its place.
    """

    squares: list[Float[Tensor, "b _ 3"]]
    pictures: list[Float[Tensor, "b _ 3 h w"]]
    crops: Crops
    chosen: Float[Tensor, "b n p 3"]
    zoom_attention: list[Float[Tensor, "b _ _ 3"]]
    taken: list[Float[Tensor, "b _ _ 3"]]


def _rests(logits: Float[Tensor, "b n c"], leaves: int) -> bool:
    """Tell whether no probability has changed by more than `SETTLED` over the last leaves."""
    latest = logits[:, -leaves - 1 :].softmax(dim=-1)
    if latest.shape[1] <= leaves:
        return False
    return bool((latest.amax(dim=1) - latest.amin(dim=1) <= SETTLED).all())
