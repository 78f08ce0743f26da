"""IPS: score all patches without gradients, select the best, and classify by those alone.

Source: Bergner, Lippert, Mahendran, "Iterative Patch Selection for High-Resolution Image
    Recognition", ICLR 2023. Code: benbergner/ips.
Departs: patches are scored in chunks and the best M selected once, by attention normalized over all
    patches; the authors' code keeps a buffer of M and normalizes inside it, so with several heads
    its selection depends on the order of the patches. The embedding has layer norm instead of batch
    norm, because a batch is one slide.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from parfocal.bag import Bag
from parfocal.models.layers.attention import masked_softmax
from parfocal.models.layers.dropout import Dropout
from parfocal.prediction import Look, Prediction


class IPS(nn.Module):
    """Classify a slide by the patches to which a learned query attends most.

    Args:
        in_dim: number of features per patch.
        num_classes: number of classes.
        num_selected: number of patches to select (M in the paper); all if the bag has fewer.
        chunk_size: number of patches to score at a time; affects only memory.
        dim: width of the embedding.
        num_heads: number of heads of the query's attention; divides `dim`.
        dropout: dropout rate after the attention and after the MLP.

    Raises:
        ValueError: an argument is invalid.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        *,
        num_selected: int = 5000,
        chunk_size: int = 5000,
        dim: int = 512,
        num_heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        for name, count in (("num_selected", num_selected), ("chunk_size", chunk_size)):
            if count < 1:
                raise ValueError(f"{name}={count}: at least 1 patch is needed.")
        self.num_selected, self.chunk_size, self.num_heads = num_selected, chunk_size, num_heads
        self.embedder = nn.Sequential(
            nn.LayerNorm(in_dim, elementwise_affine=False),
            nn.Linear(in_dim, dim),
            nn.LayerNorm(dim),
            nn.ReLU(inplace=True),
        )
        self.query = nn.Parameter(torch.randn(dim) / dim**0.5)
        self.query_projection, self.key_projection, self.value_projection = (
            nn.Linear(dim, dim, bias=False) for _ in range(3)
        )
        self.output_projection = nn.Sequential(nn.Linear(dim, dim, bias=False), Dropout(dropout))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim), Dropout(dropout)
        )
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, bag: Bag) -> Prediction:
        """Classify one slide from its bag at a single magnification.

        The score of a patch in the look is its attention, the mean over heads; 0 if it was not
        selected.

        Raises:
            ValueError: the bag has no valid patch.
        """
        features, valid = bag.features(), bag.valid
        selected = self.select(features, valid)  # m
        h = self.embedder(features[selected])  # m c
        attention = self._scores(h).softmax(dim=0)  # m heads
        values = self.value_projection(h).view(len(h), self.num_heads, -1)  # m heads d
        attended = torch.einsum("mh,mhd->hd", attention, values).flatten()
        x = self.norms[0](self.query + self.output_projection(attended))
        x = self.norms[1](x + self.mlp(x))
        scores = torch.zeros(len(features)).index_put_(
            (selected.cpu(),), attention.detach().mean(dim=1).cpu()
        )
        return Prediction(self.classifier(x), (Look(bag.rows, scores),))

    @torch.no_grad()
    def select(
        self, features: Float[Tensor, "n d"], valid: Bool[Tensor, " n"]
    ) -> Int64[Tensor, " m"]:
        """Return the positions, ascending, of the patches with the highest mean attention."""
        chunks = torch.split(features, self.chunk_size)
        scores = torch.cat([self._scores(self.embedder(chunk)) for chunk in chunks])  # n heads
        attention = masked_softmax(scores, valid).mean(dim=1)
        count = min(self.num_selected, int(valid.sum()))
        missing = ~valid.to(attention.device)
        return attention.masked_fill(missing, -1).topk(count).indices.sort().values

    def _scores(self, h: Float[Tensor, "n c"]) -> Float[Tensor, "n heads"]:
        """Return the scaled dot product of the query with each patch, by head."""
        query = self.query_projection(self.query).view(self.num_heads, 1, -1)
        # q · (K h) = (q K) · h: with one query and many patches, fold the key into the query.
        key = self.key_projection.weight.view(self.num_heads, -1, h.shape[1])
        folded = (query @ key).squeeze(1)  # heads c
        scores: Tensor = h @ folded.T / query.shape[2] ** 0.5
        return scores
