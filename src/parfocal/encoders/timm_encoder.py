"""Load any network of timm as an encoder, named `timm:NAME`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from parfocal.encoders.catalog import find_card
from parfocal.encoders.digests import digest_once
from parfocal.encoders.pooling import Pooling
from parfocal.encoders.spec import ANY_MPP, EncoderSpec, Output
from parfocal.encoders.timm_networks import TimmNetwork, load_timm

PREFIX = "timm:"


def load_timm_encoder(
    name: str, *, weights: Path | None = None, output: Output | None = None
) -> tuple[EncoderSpec, nn.Module]:
    """Load a network of timm as an encoder, fed as timm's config says.

    Args:
        name: `timm:NAME`.
        weights: file or folder with weights of that network; None for the published weights.
        output: which output to use as features; None for vectors if the network returns them, its
            class token if it returns tokens, and the mean if it returns a map or has no class
            token.

    Returns:
        The description of the encoder, and a network from normalized images to features.

    Raises:
        ValueError: the network does not have this output.
        EncoderError: timm cannot be imported, does not know the name, or cannot get the weights.
    """
    loaded = load_timm(name.removeprefix(PREFIX), weights=weights)
    network, card = loaded.network, find_card(name.rpartition(":")[2])
    spec = EncoderSpec(
        name=name,
        dim=loaded.dim,
        input_size=loaded.input_size,
        mean=loaded.mean,
        std=loaded.std,
        mpp_range=ANY_MPP if card is None else card.mpp_range,
        license=loaded.license,
        weights_hash=digest_once(network.state_dict(), loaded.files, recipe=name),
        interpolation=loaded.interpolation,
    )
    if loaded.tokens == 0 and output in (None, "pooled"):
        return spec, network
    prefix_tokens = getattr(network, "num_prefix_tokens", 0) if loaded.tokens < 2 else 0
    chosen = output or (card.default_output if card else "cls" if prefix_tokens else "mean")
    run = network.__call__ if loaded.tokens else getattr(network, "forward_features", None)
    if run is None or chosen == "pooled" or ("cls" in chosen and not prefix_tokens):
        raise ValueError(
            f"encoder {name} has no output {chosen!r}: its network returns "
            f"{_kind(loaded, prefix_tokens)}."
        )
    if loaded.channels_last:
        run = _channels_first(run)
    pooling = Pooling(network, run, output=chosen, prefix_tokens=prefix_tokens)
    width = loaded.dim * (2 if chosen == "cls+mean" else 1)
    return replace(spec, dim=width, output=chosen, prefix_tokens=prefix_tokens), pooling


def _kind(loaded: TimmNetwork, prefix_tokens: int) -> str:
    """Return what a network returns, for a message."""
    kinds = ("vectors", f"tokens, {prefix_tokens} of them before the patch tokens", "a feature map")
    return kinds[loaded.tokens]


def _channels_first(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function whose feature map has its channels on the second axis."""
    return lambda images: torch.movedim(run(images), -1, 1)
