"""Start training from the weights of a trained model (`train.init_from`)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from parfocal.encoders.spec import EncoderSpec
from parfocal.models.checkpoint import Checkpoint
from parfocal.models.provenance import TrainingProvenance
from parfocal.settings import RunSettings
from parfocal.train.folder import RunError


def load_initial_model(
    settings: RunSettings, labels: Sequence[str], encoders: Sequence[EncoderSpec]
) -> Checkpoint | None:
    """Load the trained model that a run starts from; None without `train.init_from`.

    Args:
        settings: settings of the run.
        labels: class labels of the run.
        encoders: encoder of each magnification of the run; empty for a model that takes pixels.

    Raises:
        CheckpointError: the trained model cannot be loaded.
        RunError: its model, labels or encoder differ from those of the run.
    """
    folder = settings.train.init_from
    if folder is None:
        return None
    initial = Checkpoint.load(folder)
    _require_equal("model", initial.model_name, settings.model.name)
    _require_equal("labels", list(initial.labels), list(labels))
    _require_equal("encoder", _unique(initial.encoders), _unique(encoders))
    return initial


def copy_weights(model: nn.Module, initial: Checkpoint) -> None:
    """Copy the weights of a trained model into a new one.

    Raises:
        RunError: the weights of the two models differ in name or shape.
    """
    weights = initial.model.state_dict()
    initial_shapes, shapes = (
        {name: list(tensor.shape) for name, tensor in each.items()}
        for each in (weights, model.state_dict())
    )
    for name in sorted({*initial_shapes, *shapes}):
        _require_equal(name, initial_shapes.get(name), shapes.get(name))
    model.load_state_dict(weights)


def merge_provenance(new: TrainingProvenance, initial: TrainingProvenance) -> TrainingProvenance:
    """Add the slides and patients of an initial model, so that evaluation excludes them."""
    return replace(
        new,
        slides=_merge(new.slides, initial.slides),
        patients=_merge(new.patients, initial.patients),
        fingerprints={**initial.fingerprints, **new.fingerprints},
    )


def _unique(encoders: Sequence[EncoderSpec]) -> object:
    """Return the encoder of all magnifications, the encoders if there are several, or None."""
    if all(encoder == encoders[0] for encoder in encoders):
        return encoders[0] if encoders else None
    return tuple(encoders)


def _merge(
    new: Mapping[str, Sequence[str]], initial: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    return {part: sorted({*new[part], *initial[part]}) for part in new}


def _require_equal(name: str, initial: object, expected: object) -> None:
    if initial != expected:
        raise RunError(
            f"train.init_from: the {name} of that run is {initial}, but {expected} in this one; "
            "start from a run with the same model settings, or remove train.init_from."
        )
