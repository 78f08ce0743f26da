"""IPS: all patches are scored without gradients, and the best M are looked at in earnest.

Source: Bergner, Lippert, Mahendran, "Iterative Patch Selection for High-Resolution Image
    Recognition", ICLR 2023. Code: benbergner/ips.
Departs: patches are scored in chunks and the M best chosen once, from scores normalized over all;
    the code keeps a buffer of M and normalizes in it, so with several heads its choice depends on
    the order. The embedding has layer norm in place of batch norm, as a batch is one slide.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.bag import Bag, Look, Prediction
from parfocal.models.layers.attention import masked_softmax
from parfocal.models.layers.dropout import Dropout


class IPS(nn.Module):
    """Classify a slide by the M patches that a learned query attends to most.

    Args:
        in_dim: features per patch.
        num_classes: slide labels.
        m: patches kept; all, of a smaller bag.
        chunk: patches scored at a time, which bounds the memory and changes nothing else.
        dim: width of the embedding.
        heads: of the query's attention; they share `dim`.
        dropout: of attention's answer and of the layer behind it, in training.

    Raises:
        ValueError: `m` or `chunk` is less than 1.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        m: int = 5000,
        chunk: int = 5000,
        dim: int = 512,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, count in (("m", m), ("chunk", chunk)):
            if count < 1:
                raise ValueError(f"{name}={count}: at least 1 patch is needed.")
        self.m, self.chunk, self.heads = m, chunk, heads
        self.embed = nn.Sequential(
            nn.LayerNorm(in_dim, elementwise_affine=False),
            nn.Linear(in_dim, dim),
            nn.LayerNorm(dim),
            nn.ReLU(inplace=True),
        )
        self.query = nn.Parameter(torch.randn(dim) / dim**0.5)
        self.query_projection, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.join = nn.Sequential(nn.Linear(dim, dim, bias=False), Dropout(dropout))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.think = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim), Dropout(dropout)
        )
        self.classify = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide, given its bag at the one magnification.

        Raises:
            ValueError: the bag has no valid patch.
        """
        features, valid = bag.features(), bag.valid
        best = self.select(features, valid)  # m
        h = self.embed(features[best])  # m c
        attention = self._scores(h).softmax(dim=0)  # m heads
        values = self.value(h).view(len(h), self.heads, -1)  # m heads d
        answer = torch.einsum("mh,mhd->hd", attention, values).flatten()
        x = self.norms[0](self.query + self.join(answer))
        x = self.norms[1](x + self.think(x))
        shown = torch.zeros(len(features)).index_put_(
            (best.cpu(),), attention.detach().mean(dim=1).cpu()
        )
        return Prediction(self.classify(x), (Look(bag.rows, shown),))

    @torch.no_grad()
    def select(
        self, features: Float[Tensor, "n d"], valid: Bool[Tensor, " n"]
    ) -> Int64[Tensor, " m"]:
        """Give the patches with the highest attention, the mean over heads, in their order."""
        chunks = torch.split(features, self.chunk)
        scores = torch.cat([self._scores(self.embed(chunk)) for chunk in chunks])  # n heads
        attention = masked_softmax(scores, valid).mean(dim=1)
        kept = min(self.m, int(valid.sum()))
        missing = ~valid.to(attention.device)
        return attention.masked_fill(missing, -1).topk(kept).indices.sort().values

    def _scores(self, h: Float[Tensor, "n c"]) -> Float[Tensor, "n heads"]:
        """Compare each patch with the query, head by head."""
        asked = self.query_projection(self.query).view(self.heads, 1, -1)
        # q · (K h) = (q K) · h, and there is one query for many patches.
        folded = (asked @ self.key.weight.view(self.heads, -1, h.shape[1])).squeeze(1)  # heads c
        scores: Tensor = h @ folded.T / asked.shape[2] ** 0.5
        return scores
