"""Nyström attention: self-attention through a few landmarks, linear in the sequence length.

Source: Xiong et al., "Nyströmformer: A Nyström-based Algorithm for Approximating Self-attention",
    AAAI 2021; as used in TransMIL, with a convolution over the values.
Departs: the sequence is not padded, so no token attends to zeros; the pseudo-inverse of each head
    is initialized with its own largest sums, not with the largest of all heads and sequences.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.models.layers.dropout import Dropout


class NystromAttention(nn.Module):
    """Approximate self-attention through landmarks.

    softmax(Q L_Kᵀ) pinv(softmax(L_Q L_Kᵀ)) softmax(L_Q Kᵀ) V, where the landmarks L_Q and L_K are
    means of Q and K over segments of the sequence. With as many landmarks as tokens, this is exact
    attention.

    Args:
        dim: width of a token.
        num_heads: number of heads.
        head_dim: width of a head.
        num_landmarks: number of landmarks; at most one per token is used.
        pinv_iterations: number of iterations of the pseudo-inverse.
        kernel_size: length of the convolution over the values.
        dropout: dropout rate of the result.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int = 8,
        head_dim: int = 64,
        num_landmarks: int = 256,
        pinv_iterations: int = 6,
        kernel_size: int = 33,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        inner_dim = num_heads * head_dim
        self.num_heads = num_heads
        self.num_landmarks = num_landmarks
        self.pinv_iterations = pinv_iterations
        self.qkv = nn.Linear(dim, 3 * inner_dim, bias=False)
        self.output_projection = nn.Sequential(nn.Linear(inner_dim, dim), Dropout(dropout))
        # The kernel runs along the sequence and is the same for all dimensions of a head.
        self.value_convolution = nn.Conv2d(
            num_heads,
            num_heads,
            (kernel_size, 1),
            padding=(kernel_size // 2, 0),
            groups=num_heads,
            bias=False,
        )

    def forward(
        self, x: Float[Tensor, "n c"], lengths: Sequence[int] | None = None
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, " n"]]:
        """Return the attended tokens, and the exact attention weights of the first token.

        Args:
            x: the tokens.
            lengths: number of tokens of each part of the sequence; the convolution over the values
                does not reach from one part into the next. None for a sequence in one part.
        """
        parts = self.qkv(x).view(len(x), 3, self.num_heads, -1).permute(1, 2, 0, 3)
        q, k, v = parts.unbind()  # each h n d
        landmarks_q = segment_means(q, self.num_landmarks)  # h m d
        landmarks_k = segment_means(k, self.num_landmarks)  # h m d
        scale = q.shape[-1] ** -0.5
        inverse = pseudo_inverse(
            (scale * landmarks_q @ landmarks_k.mT).softmax(dim=-1), self.pinv_iterations
        )
        # The fused attention never holds the n by m matrices.
        gathered = F.scaled_dot_product_attention(landmarks_q[None], k[None], v[None])[0]  # h m d
        values = inverse @ gathered
        attended = F.scaled_dot_product_attention(q[None], landmarks_k[None], values[None])[0]
        parts_of_v = v.split(list(lengths or [len(x)]), dim=1)
        convolved = [self.value_convolution(part[None])[0] for part in parts_of_v]
        mixed = attended + torch.cat(convolved, dim=1)  # h n d
        with torch.no_grad():
            first = (scale * q[:, :1] @ k.mT).softmax(dim=-1).mean(dim=0)[0]  # n
        return self.output_projection(mixed.transpose(0, 1).flatten(1)), first


def segment_means(x: Float[Tensor, "h n d"], max_segments: int) -> Float[Tensor, "h m d"]:
    """Return the means over segments of equal length; only the first segment may be shorter."""
    heads, tokens, dim = x.shape
    length = -(-tokens // max_segments)
    segments = -(-tokens // length)
    missing = segments * length - tokens
    if not missing:
        return x.view(heads, segments, length, dim).mean(dim=2)
    first = length - missing
    rest = x[:, first:].reshape(heads, segments - 1, length, dim).mean(dim=2)
    return torch.cat([x[:, :first].mean(dim=1, keepdim=True), rest], dim=1)


def pseudo_inverse(a: Float[Tensor, "h m m"], iterations: int) -> Float[Tensor, "h m m"]:
    """Approximate the pseudo-inverse by z <- z (13 - az (15 - az (7 - az))) / 4.

    Each matrix is initialized with its transpose, divided by its largest row sum and its largest
    column sum.
    """
    size = a.abs()
    z = a.mT / (size.sum(dim=-1).amax(-1) * size.sum(dim=-2).amax(-1))[:, None, None]
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(iterations):
        az = a @ z
        z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z
