"""Context: what a patch inherits from the patches that contain it.

Source: ours, as options of ZoomMIL, whose patches are published without context. The residual
    recurrent state follows PATHS (Buzzard et al., CVPR 2025), with a GRU in place of its LSTM.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.models.choice import require_choice

CONTEXTS = ("none", "parent", "recurrent")


class ParentContext(nn.Module):
    """Add a linear function of the parent's embedding to that of each child, before the ReLU.

    The weights start at zero, so that training starts from a model without context.

    Args:
        dim: width of the embedding.
        num_zooms: number of zooms.
    """

    def __init__(self, dim: int, num_zooms: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(num_zooms))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)

    def forward(
        self,
        step: int,
        embed: nn.Sequential,
        features: Float[Tensor, "n d"],
        parents: Float[Tensor, "n c"] | None,
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
        """Return the embeddings of patches, and the states that their children inherit.

        Args:
            step: number of the magnification, from 0.
            embed: embedding of this magnification: a linear layer, ReLU and dropout.
            features: features of the patches.
            parents: state of the parent of each patch; None at the lowest magnification.
        """
        linear, *following = embed
        h = linear(features)
        if parents is not None:
            h = h + self.layers[step - 1](parents)
        for layer in following:
            h = layer(h)
        return h, h


class RecurrentContext(nn.Module):
    """Carry the state of a GRU from each patch to its children, and add it to the embedding.

    The GRU is the same at all magnifications. At the lowest, the state before is zero.

    Args:
        dim: width of the embedding and of the state.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRUCell(dim, dim)

    def forward(
        self,
        step: int,
        embed: nn.Sequential,
        features: Float[Tensor, "n d"],
        parents: Float[Tensor, "n c"] | None,
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
        """Return the embeddings of patches, and the states that their children inherit.

        Args:
            step: number of the magnification, from 0; has no effect.
            embed: embedding of this magnification.
            features: features of the patches.
            parents: state of the parent of each patch; None at the lowest magnification.
        """
        h = embed(features)
        state = self.gru(h, torch.zeros_like(h) if parents is None else parents)
        return h + state, state


def build_context(context: str, dim: int, num_zooms: int) -> nn.Module | None:
    """Build the module of a context; None for "none".

    Args:
        context: one of `CONTEXTS`.
        dim: width of the embedding.
        num_zooms: number of zooms.

    Raises:
        ValueError: the context is unknown.
    """
    require_choice("context", context, CONTEXTS)
    if context == "parent":
        return ParentContext(dim, num_zooms)
    return RecurrentContext(dim) if context == "recurrent" else None
