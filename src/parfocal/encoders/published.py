"""Load the published encoders of the catalog."""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import nn

from parfocal.encoders.card import PACKAGES, EncoderCard
from parfocal.encoders.conch_network import load_card_from_conch
from parfocal.encoders.digests import digest_once
from parfocal.encoders.pooling import Pooling, PublishedNetwork
from parfocal.encoders.preparation import prepared_by
from parfocal.encoders.spec import EncoderSpec, Output
from parfocal.encoders.timm_networks import load_card_from_timm
from parfocal.encoders.transformers_networks import load_card_from_transformers
from parfocal.encoders.weights import EncoderError


def load_published(
    card: EncoderCard,
    *,
    weights: Path | None = None,
    output: Output | None = None,
    trust_remote_code: bool = False,
) -> tuple[EncoderSpec, nn.Module]:
    """Load a published encoder from the Hub, from its cache, or from files.

    Args:
        card: the encoder.
        weights: weights file, or folder of the repository; None for the Hub.
        output: which output to use as features; None for the encoder's default.
        trust_remote_code: whether to run code from the repository, if it contains any.

    Returns:
        The description of the encoder, and a network from normalized images to features.

    Raises:
        ValueError: the encoder does not have this output.
        EncoderError: a package or the weights are missing, or the weights are of another network.
    """
    spec = card.spec(output)
    if weights is not None and not weights.exists():
        raise EncoderError(
            f"{card.id}: {weights}: no such weights file or folder; check the path given as "
            "weights."
        )
    pooled = spec.output == "pooled"
    if card.loader == "timm":
        loaded = load_card_from_timm(card, weights=weights, pooled=pooled)
    elif card.loader == "conch":
        loaded = load_card_from_conch(card, weights=weights)
    else:
        loaded = load_card_from_transformers(
            card, weights=weights, pooled=pooled, trust_remote_code=trust_remote_code
        )
    spec = prepared_by(spec, loaded.transform)
    _check_shape(spec, loaded, weights)
    # The version of the package, too: another one may name the tensors differently.
    recipe = " ".join((card.id, *map(_version, PACKAGES[card.loader])))
    hashed = digest_once(loaded.network.state_dict(), loaded.files, recipe=recipe)
    features = Pooling(
        loaded.network, loaded.run, output=spec.output, prefix_tokens=spec.prefix_tokens
    )
    return replace(spec, weights_hash=hashed), features


def _check_shape(spec: EncoderSpec, loaded: PublishedNetwork, weights: Path | None) -> None:
    """Raise if a network has another width or other tokens than the encoder."""
    dim = spec.dim // 2 if spec.output == "cls+mean" else spec.dim
    source = weights or "the file on the Hub"
    if loaded.dim not in (None, dim):
        raise EncoderError(
            f"{spec.name}: {source} is for a network with {loaded.dim} features, and {spec.name} "
            f"has {dim}. Give the weights of {spec.name}, or choose the encoder of these weights."
        )
    if loaded.prefix_tokens not in (None, spec.prefix_tokens):
        raise EncoderError(
            f"{spec.name}: {source} is for a network with {loaded.prefix_tokens} tokens before the "
            f"patch tokens, and {spec.name} has {spec.prefix_tokens}. Give the weights of "
            f"{spec.name}."
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
