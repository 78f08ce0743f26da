"""Load CONCH from its authors' package. The only module that imports conch."""

from functools import partial
from pathlib import Path

from parfocal.encoders.card import INSTALL, EncoderCard
from parfocal.encoders.hub import cached_files, unavailable, weights_files
from parfocal.encoders.load_guards import recorded_loads, tensors_only
from parfocal.encoders.pooling import PublishedNetwork
from parfocal.encoders.weights import EncoderError, check_exists, first_line

ARCHITECTURE = "conch_ViT-B-16"
IMAGE_ENCODER = "visual."  # first part of the names of its tensors


def load_card_from_conch(card: EncoderCard, *, weights: Path | None = None) -> PublishedNetwork:
    """Load the image encoder of CONCH, without projection and normalization.

    Args:
        card: card of CONCH.
        weights: its weights file, or a folder with it; None to get it from the Hub.

    Raises:
        EncoderError: the package cannot be imported, or the weights are missing or damaged.
    """
    try:
        from conch.open_clip_custom import create_model_from_pretrained  # noqa: PLC0415 (optional)
    except Exception as error:
        raise EncoderError(
            f"{card.id}: the package conch of its authors cannot be imported "
            f"({type(error).__name__}: {first_line(error)}). Install it: {INSTALL[card.loader]}"
        ) from error
    if weights is not None and weights.is_dir():
        found = weights_files(weights)
        weights = found[0] if found else weights / "pytorch_model.bin"
    source = f"hf_hub:{card.hub}" if weights is None else str(check_exists(weights))
    try:
        with tensors_only(), recorded_loads() as missing:
            model, transform = create_model_from_pretrained(ARCHITECTURE, source)
    except Exception as error:
        if weights is None:
            raise unavailable(card.id, error, card=card) from error
        raise EncoderError(
            f"{card.id}: {weights} cannot be loaded ({type(error).__name__}: {first_line(error)}). "
            f"Give the weights file of {card.page}."
        ) from error
    # The package ignores missing tensors: those of the decoder of captions are not published.
    random = sorted(name for name in missing if name.startswith(IMAGE_ENCODER))
    if random:
        raise EncoderError(
            f"{card.id}: {len(random)} tensors of the image encoder are missing from "
            f"{weights or card.page}, first {random[0]!r}. Give the weights file of {card.page}."
        )
    files = cached_files(card.hub) if weights is None else [weights]
    run = partial(model.encode_image, proj_contrast=False, normalize=False)
    return PublishedNetwork(model.eval(), run, tuple(files), transform=transform)
