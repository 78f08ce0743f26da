"""The sources of the features of a training, as a checkpoint records them."""

from pathlib import Path
from typing import Any

from parfocal.features.folder import FeatureFolder
from parfocal.features.foreign.folder import ForeignFolder
from parfocal.settings import RunSettings


def encoder_weights(settings: RunSettings) -> tuple[Path | None, ...]:
    """Return the weights file of each encoder; empty if all have published weights."""
    encoder = settings.encoder
    if encoder is None:
        return ()
    files = [encoder.weights_at(each) for each in settings.slide.magnifications]
    absolute = tuple(None if file is None else file.absolute() for file in files)
    return absolute if any(absolute) else ()


def feature_source(settings: RunSettings, features: FeatureFolder | None) -> dict[str, Any]:
    """Return which other tool extracted the features, and at which true resolutions.

    Args:
        settings: settings of the run.
        features: folder of features; None if the slide files are read.
    """
    if not isinstance(features, ForeignFolder):
        return {}
    true = {f"{each:g}": features.true_mpps(each) for each in settings.slide.magnifications}
    return {
        "feature_tool": features.facts.tool,
        "feature_mpps": {name: list(mpps) for name, mpps in true.items() if mpps is not None},
    }
