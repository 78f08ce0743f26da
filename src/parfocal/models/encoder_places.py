"""Use the encoders of a trained model where they are now: in a service, or in a weights file."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from parfocal.encoders.service import is_address
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.description import CheckpointError

HERE = "here"


def with_encoders_at(trained: Checkpoint, places: str | Mapping[float, str]) -> Checkpoint:
    """Return a trained model whose encoders are loaded from other places.

    When they are loaded, their weights are compared with those of the training.

    Args:
        trained: the model.
        places: address of a service, a file with weights, or "here" to load the encoder by its name
            in this process; one for all magnifications, or some by magnification.

    Raises:
        CheckpointError: the model has no encoder, or not the magnification.
    """
    if not trained.encoders:
        raise CheckpointError(
            f"model {trained.model_name} takes pixels and has no encoder; leave out --encoder-at."
        )
    by_magnification = (
        dict.fromkeys(trained.magnifications, places) if isinstance(places, str) else places
    )
    if unknown := [each for each in by_magnification if each not in trained.magnifications]:
        names = ", ".join(f"{each:g}" for each in trained.magnifications)
        raise CheckpointError(
            f"--encoder-at: the model has no magnification {unknown[0]:g}; it has {names}."
        )
    encoders, weights = list(trained.encoders), list(trained.encoder_weights)
    weights = weights or [None] * len(encoders)
    for index, magnification in enumerate(trained.magnifications):
        place = by_magnification.get(magnification)
        if place is None:
            continue
        encoders[index] = replace(encoders[index], address=place if is_address(place) else "")
        weights[index] = None if is_address(place) or place == HERE else Path(place)
    files = tuple(weights) if any(weights) else ()
    return replace(trained, encoders=tuple(encoders), encoder_weights=files)
