"""Nyström attention: softmax attention through a few landmarks, linear in the sequence.

Source: Xiong et al., "Nyströmformer: A Nyström-based Algorithm for Approximating Self-attention",
    AAAI 2021; as TransMIL has it, with a convolution over the values.
Departs: nothing is padded, so no zeros are attended to; each head's pseudo-inverse starts from its
    own largest sums, not from the largest of all heads and sequences.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.models.layers.dropout import Dropout


class NystromAttention(nn.Module):
    """Attend from every token to every token, through landmarks.

    softmax(Q L_Kᵀ) pinv(softmax(L_Q L_Kᵀ)) softmax(L_Q Kᵀ) V, where the landmarks L are means over
    segments of the sequence; with as many as there are tokens this is exact attention.

    Args:
        dim: width of a token.
        heads: of attention, each `head_dim` wide.
        head_dim: width of a head.
        landmarks: at most; never more than tokens.
        iterations: of the pseudo-inverse.
        kernel_size: of the convolution over the values.
        dropout: of the result, in training.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 8,
        head_dim: int = 64,
        landmarks: int = 256,
        iterations: int = 6,
        kernel_size: int = 33,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.landmarks = landmarks
        self.iterations = iterations
        self.split = nn.Linear(dim, 3 * inner, bias=False)
        self.join = nn.Sequential(nn.Linear(inner, dim), Dropout(dropout))
        # The kernel runs along the sequence, the same for all of a head.
        self.near = nn.Conv2d(
            heads, heads, (kernel_size, 1), padding=(kernel_size // 2, 0), groups=heads, bias=False
        )

    def forward(self, x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, "n c"], Float[Tensor, " n"]]:
        """Give each token what it attends to; and what the first attends to, exactly."""
        parts = self.split(x).view(len(x), 3, self.heads, -1).permute(1, 2, 0, 3)
        q, k, v = parts.unbind()  # each h n d
        far_q, far_k = landmarks(q, self.landmarks), landmarks(k, self.landmarks)  # h m d
        scale = q.shape[-1] ** -0.5
        inverse = pseudo_inverse((scale * far_q @ far_k.mT).softmax(dim=-1), self.iterations)
        # Fused attention never holds the n by m matrices.
        gathered = F.scaled_dot_product_attention(far_q[None], k[None], v[None])[0]  # h m d
        spread = inverse @ gathered
        attended = F.scaled_dot_product_attention(q[None], far_k[None], spread[None])[0]  # h n d
        mixed = attended + self.near(v[None])[0]
        with torch.no_grad():
            first = (scale * q[:, :1] @ k.mT).softmax(dim=-1).mean(dim=0)[0]  # n
        return self.join(mixed.transpose(0, 1).flatten(1)), first


def landmarks(x: Float[Tensor, "h n d"], most: int) -> Float[Tensor, "h m d"]:
    """Give the means of segments that are equally long, but for the first, which may be shorter."""
    heads, tokens, dim = x.shape
    length = -(-tokens // most)
    segments = -(-tokens // length)
    short = segments * length - tokens
    if not short:
        return x.view(heads, segments, length, dim).mean(dim=2)
    first = length - short
    rest = x[:, first:].reshape(heads, segments - 1, length, dim).mean(dim=2)
    return torch.cat([x[:, :first].mean(dim=1, keepdim=True), rest], dim=1)


def pseudo_inverse(a: Float[Tensor, "h m m"], iterations: int) -> Float[Tensor, "h m m"]:
    """Approach the pseudo-inverse by z <- z (13 - az (15 - az (7 - az))) / 4.

    Each matrix starts from its transpose over its largest row sum and largest column sum.
    """
    size = a.abs()
    z = a.mT / (size.sum(dim=-1).amax(-1) * size.sum(dim=-2).amax(-1))[:, None, None]
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(iterations):
        az = a @ z
        z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z
