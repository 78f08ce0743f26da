"""Starting from a trained model: its weights, and what it has learned from before."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from parfocal.encoders.encoder import EncoderSpec
from parfocal.models.checkpoint import Checkpoint, Training
from parfocal.settings import RunSettings
from parfocal.train.folder import RunError


def load_start(
    settings: RunSettings, labels: Sequence[str], encoder: EncoderSpec | None
) -> Checkpoint | None:
    """Read the trained model that a run starts from; None where it starts from none.

    Raises:
        CheckpointError: it cannot be read.
        RunError: it is another model, of other labels, or of the features of another encoder.
    """
    folder = settings.train.init_from
    if folder is None:
        return None
    found = Checkpoint.load(folder)
    _refuse_others("model", found.model_name, settings.model.name)
    _refuse_others("labels", list(found.labels), list(labels))
    _refuse_others("encoder", found.encoder, encoder)
    return found


def take_weights(model: nn.Module, start: Checkpoint) -> None:
    """Copy the weights of a trained model.

    Raises:
        RunError: those of this one have other shapes.
    """
    weights = start.model.state_dict()
    there, here = (
        {name: list(tensor.shape) for name, tensor in each.items()}
        for each in (weights, model.state_dict())
    )
    for name in sorted({*there, *here}):
        _refuse_others(name, there.get(name), here.get(name))
    model.load_state_dict(weights)


def continued(training: Training, before: Training) -> Training:
    """Add what the model had learned from before, so that nobody takes it for unseen."""
    return replace(
        training,
        slides=_together(training.slides, before.slides),
        patients=_together(training.patients, before.patients),
        fingerprints={**before.fingerprints, **training.fingerprints},
    )


def _together(
    now: Mapping[str, Sequence[str]], before: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    return {part: sorted({*now[part], *before[part]}) for part in now}


def _refuse_others(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise RunError(
            f"train.init_from: the {what} of that run is {found}, and of this one {wanted}; start from "
            "a run with the same settings of the model, or leave it out."
        )
