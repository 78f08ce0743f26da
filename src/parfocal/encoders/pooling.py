"""Turn the output of a network into one feature vector per image.

A vision transformer returns tokens: a class token, perhaps register tokens, then one token per
patch of the image. Some networks return them all, others one of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from parfocal.encoders.spec import Output


@dataclass(frozen=True)
class PublishedNetwork:
    """A network of a published encoder, with its weights.

    Args:
        network: network as published, whose weights are hashed.
        run: function that runs it on images.
        files: files of its weights; none if unknown.
        dim: width of its tokens or of its output; None if unknown.
        prefix_tokens: number of tokens before the patch tokens; None if unknown.
        transform: transform by which the authors' code prepares patches; None if it has none.
    """

    network: nn.Module
    run: Callable[[Tensor], Tensor]
    files: tuple[Path, ...] = ()
    dim: int | None = None
    prefix_tokens: int | None = None
    transform: object = None


class Pooling(nn.Module):
    """Returns one feature vector per image from a network that returns tokens.

    Args:
        network: network to run; it is a part of this module.
        run: function that runs the network on images, to tokens, or to a feature map whose
            channels are its second axis, or to vectors.
        output: which output to use as features; see `EncoderSpec`.
        prefix_tokens: number of tokens before the patch tokens.
    """

    def __init__(
        self,
        network: nn.Module,
        run: Callable[[Tensor], Tensor],
        *,
        output: Output,
        prefix_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.output, self.prefix_tokens = network, output, prefix_tokens
        self._run = run

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return the features of normalized images."""
        return pool(self._run(images), self.output, prefix_tokens=self.prefix_tokens)


def pool(
    raw: Float[Tensor, "n ..."], output: Output, *, prefix_tokens: int
) -> Float[Tensor, "n d"]:
    """Return one vector per image.

    Args:
        raw: tokens (n, tokens, dim), a feature map (n, dim, h, w), or vectors (n, dim).
        output: which output to return; vectors are returned as they are.
        prefix_tokens: number of tokens before the patch tokens.

    Raises:
        ValueError: `raw` has no such output.
    """
    if raw.ndim == 4:
        raw, prefix_tokens = raw.flatten(2).transpose(1, 2), 0
    if raw.ndim == 2 and output == "pooled":
        return raw
    if raw.ndim != 3 or output == "pooled" or raw.shape[1] <= prefix_tokens:
        raise ValueError(
            f"a network whose output has shape {tuple(raw.shape)} has no output {output!r} after "
            f"{prefix_tokens} tokens."
        )
    if output == "cls":
        return raw[:, 0]
    mean = raw[:, prefix_tokens:].mean(1)
    return mean if output == "mean" else torch.cat([raw[:, 0], mean], dim=-1)
