"""PATHS: read a slide top-down, with a transformer per magnification and memory along each path.

Source: Buzzard, Hemker, Simidjievski, Jamnik, "PATHS: A Hierarchical Transformer for Efficient
    Whole Slide Image Analysis", CVPR 2025, arXiv 2411.18225. Code: zzbuzzard/PATHS.
Departs: the class token attends in an encoder, where the code's decoder also attends to an empty
    sequence, which adds a constant; patches are read when the model zooms into their parent, not
    all beforehand; if each magnification has an encoder of its own, a linear layer per
    magnification brings the features to one width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float, Int64
from torch import Tensor, nn

from parfocal.bag import Bag, inherited
from parfocal.models.layers.attention import require_valid
from parfocal.models.layers.choosing import choose
from parfocal.models.layers.place_encoding import encode_places
from parfocal.models.layers.topk import TopK
from parfocal.models.layers.widths import widths_per_magnification
from parfocal.prediction import Look, Prediction


class PATHS(nn.Module):
    """Classify a slide top-down: at each magnification, the most important patches are zoomed into.

    Each patch carries a recurrent state from its parent. An importance between 0 and 1 multiplies
    its features and decides whether it is zoomed into. A transformer summarizes the patches of a
    magnification, with their places; the sum of the summaries is classified.

    Args:
        in_dim: number of features per patch, one for all magnifications or one for each, lowest
            first.
        num_classes: number of classes.
        num_magnifications: number of magnifications.
        k: number of patches to zoom into at each magnification but the highest.
        dim: width of the transformers, a multiple of 4 and of `num_heads`.
        num_heads: number of attention heads of the transformers.
        num_layers: number of layers of each transformer.
        importance_dim: width of the hidden layer that computes the importance.
        memory_dim: width of the memory that is carried along a path.
        dropout: dropout rate in the transformers.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        in_dim: int | Sequence[int],
        num_classes: int,
        *,
        num_magnifications: int = 5,
        k: int = 20,
        dim: int = 128,
        num_heads: int = 4,
        num_layers: int = 2,
        importance_dim: int = 128,
        memory_dim: int = 256,
        dropout: float = 0.05,
    ) -> None:
        super().__init__()
        if num_magnifications < 1:
            raise ValueError(f"num_magnifications={num_magnifications}: at least 1 is needed.")
        if min(num_heads, num_layers) < 1 or dim < 4 or dim % 4 or dim % num_heads:
            raise ValueError(
                f"dim={dim}, num_heads={num_heads}, num_layers={num_layers}: dim has to be a "
                "multiple of 4 and of num_heads, and there is at least 1 head and 1 layer."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: a dropout rate is at least 0 and less than 1.")
        widths = widths_per_magnification(in_dim, num_magnifications)
        width = max(widths)
        several = () if isinstance(in_dim, int) else widths
        self.embedders = nn.ModuleList(nn.Linear(each, width) for each in several)
        self.memory = PathMemory(width, memory_dim)
        self.importance = nn.ModuleList(
            nn.Sequential(nn.Linear(width, importance_dim), nn.ReLU(), nn.Linear(importance_dim, 1))
            for _ in widths
        )
        self.summaries = nn.ModuleList(
            SlideSummary(width, dim, num_heads=num_heads, num_layers=num_layers, dropout=dropout)
            for _ in widths
        )
        self.topks = nn.ModuleList(TopK(k) for _ in widths[1:])
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at the lowest magnification.

        The score of a patch in a look is its importance, divided by the sum over the look.

        Raises:
            ValueError: the bag has fewer magnifications than the model, no valid patch, or no
                positions.
        """
        looks, summaries = [], []
        parents: Tensor | None = None  # state of the parent of each patch
        for step, summarize in enumerate(self.summaries):
            require_valid(bag.valid)
            x = bag.features()  # n d
            if self.embedders:
                x = self.embedders[step](x)
            h, states = self.memory(x, parents)  # n d, n s
            y = x + h
            valid = bag.valid.to(y.device)
            importance = self.importance[step](y).sigmoid().squeeze(1) * valid  # n
            z = importance[:, None] * y
            cells, slides = bag.cells().to(y.device), bag.slides().to(y.device)
            summaries.append(summarize(z[valid], cells[valid], slides[valid]))
            score = (importance / importance.sum().clamp_min(1e-30)).detach().cpu()
            select = None
            if step < len(self.topks):
                select = choose(bag, self.topks[step], importance.detach(), valid)  # k n
            if select is None:
                looks.append(Look(bag.rows, score))
                break
            looks.append(Look(bag.rows, score, select.argmax(dim=1).cpu(), score))
            bag = bag.zoom(select)
            parents = inherited(states, select, bag)
        return Prediction(self.classifier(torch.stack(summaries).sum(dim=0)), tuple(looks))


class PathMemory(nn.Module):
    """Update the state that is carried from a patch to its children: an LSTM along the path.

    As in the authors' code, the memory has a width of its own, and a linear layer maps it to that
    of the features. With features x, and h and c of the parent, [x, h] concatenated:

        c' = c ⊙ σ(F [x, h]) + σ(I [x, h]) ⊙ tanh(G [x, h])
        h' = σ(O [x, h]) ⊙ tanh(P c')

    Args:
        width: number of features per patch.
        memory_dim: width of the memory c.
    """

    def __init__(self, width: int, memory_dim: int) -> None:
        super().__init__()
        self.width = width
        self.forget = nn.Linear(2 * width, memory_dim)
        self.input_gate = nn.Linear(2 * width, memory_dim)
        self.candidate = nn.Linear(2 * width, memory_dim)
        self.output_gate = nn.Linear(2 * width, width)
        self.project = nn.Linear(memory_dim, width)

    def forward(
        self, x: Float[Tensor, "n d"], parents: Float[Tensor, "n s"] | None
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n s"]]:
        """Return h of each patch, and the states h and c, concatenated, that children inherit.

        Args:
            x: features of the patches.
            parents: states of their parents; None for zeros.
        """
        if parents is None:
            parents = x.new_zeros(len(x), self.width + self.forget.out_features)
        h, c = torch.split(parents, [self.width, self.forget.out_features], dim=1)
        xh = torch.cat([x, h], dim=1)
        new = self.input_gate(xh).sigmoid() * self.candidate(xh).tanh()
        c = c * self.forget(xh).sigmoid() + new
        h = self.output_gate(xh).sigmoid() * self.project(c).tanh()
        return h, torch.cat([h, c], dim=1)


class SlideSummary(nn.Module):
    """Summarize the patches of one magnification: a transformer, read at a class token.

    Args:
        width: number of features per patch.
        dim: width of the transformer.
        num_heads: number of attention heads.
        num_layers: number of layers.
        dropout: dropout rate.
    """

    def __init__(
        self, width: int, dim: int, *, num_heads: int, num_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.project = nn.Linear(width, dim)
        layer = nn.TransformerEncoderLayer(dim, num_heads, 4 * dim, dropout, batch_first=True)
        self.transformer = nn.TransformerEncoder(
            layer, num_layers, norm=nn.LayerNorm(dim), enable_nested_tensor=False
        )
        for weight in self.transformer.parameters():
            if weight.ndim > 1:  # as torch.nn.Transformer; the layers are copies of one
                nn.init.xavier_uniform_(weight)
        self.token = nn.Parameter(torch.randn(dim))

    def forward(
        self,
        z: Float[Tensor, "n d"],
        cells: Int64[Tensor, "n 2"],
        slides: Int64[Tensor, " n"] | None = None,
    ) -> Float[Tensor, " dim"]:
        """Return the summary of patches.

        Args:
            z: features of the patches, multiplied by their importance.
            cells: column and row of each, in the grid of the magnification.
            slides: slide of each; None if all are of one. Patches attend to those of their own
                slide, since the places of two slides do not compare; the class token to all.
        """
        tokens = self.project(z)
        tokens = tokens + encode_places(cells, tokens.shape[1]).to(tokens.dtype)
        apart = None
        if slides is not None and bool((slides != slides[0]).any()):
            apart = F.pad(slides[:, None] != slides, (1, 0, 1, 0))  # not of the class token
        summary: Tensor = self.transformer(torch.cat([self.token[None], tokens])[None], mask=apart)
        return summary[0, 0]
