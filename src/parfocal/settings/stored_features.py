"""Settings of a run on features that another tool extracted: what the features decide."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from parfocal.encoders.catalog import find_card
from parfocal.encoders.per_magnification import encoder_text
from parfocal.features.folder import OWN_TOOL, FeatureFolder, FolderFacts
from parfocal.features.foreign.encoder_names import encoder_problems
from parfocal.settings.errors import SettingsError
from parfocal.settings.sections import EncoderSettings, RunSettings

logger = logging.getLogger(__name__)


def follow_features(settings: RunSettings, folder: FeatureFolder) -> RunSettings:
    """Return the settings of a run with the magnifications, patch size and encoder of its features.

    Features of parfocal change nothing: they are extracted for the settings. With features of
    another tool, a model that zooms uses the magnifications of the settings if the folder has them
    all, and else all of the folder; any other model uses one, that of the settings if the folder
    has it, and else the highest.

    Args:
        settings: settings of the run.
        folder: the features.

    Raises:
        SettingsError: the model zooms, and the features are of one magnification.
    """
    facts = folder.facts
    if facts.tool == OWN_TOOL or settings.encoder is None:
        return settings
    magnifications = _choose_magnifications(settings, facts, folder)
    encoders = facts.encoders_at(magnifications, str(folder))
    names = [encoder.name for encoder in encoders]
    log_features(folder)
    if magnifications != facts.magnifications:
        _log_once(logging.INFO, f"{settings.model.name} uses {_names(magnifications)} of them")
    name: str | dict[float, str] = names[0]
    if len(set(names)) > 1:
        name = dict(zip(magnifications, names, strict=True))
    return replace(
        settings,
        slide=replace(settings.slide, magnifications=magnifications, patch_size=facts.patch_size),
        encoder=_with_name(settings.encoder, name, magnifications),
    )


def log_features(folder: FeatureFolder) -> None:
    """Log once what features of another tool are, and what cannot be done with them.

    Args:
        folder: the features.
    """
    facts = folder.facts
    made_by = encoder_text([each.name for each in facts.encoders], facts.magnifications)
    _log_once(
        logging.INFO,
        f"{folder}: features by {facts.tool}: {_names(facts.magnifications)}, patches of "
        f"{facts.patch_size} px, encoder {made_by}. Values are checked when they are read; "
        "`parfocal features --values` checks all",
    )
    for problem in encoder_problems(facts):
        _log_once(
            logging.WARNING, f"{folder}: {problem}. Slide files cannot be predicted with this model"
        )


def refuse_other_flags(
    folder: FeatureFolder, *, magnifications: Sequence[float] | None, encoder: str | None
) -> None:
    """Refuse options that contradict features of another tool, which decide these settings.

    Args:
        folder: the features.
        magnifications: magnifications that the user has set; None if they were not set.
        encoder: encoder that the user has set; None if it was not set.

    Raises:
        SettingsError: the features are of other magnifications or by another encoder.
    """
    facts = folder.facts
    if facts.tool == OWN_TOOL:
        return
    if magnifications is not None and not set(magnifications) <= set(facts.magnifications):
        raise SettingsError(
            f"{folder}: the features are of {_names(facts.magnifications)}, and --magnifications "
            f"asks for {_names(magnifications)}; leave it out, or name other folders."
        )
    made_by = encoder_text([each.name for each in facts.encoders], facts.magnifications)
    card = None if encoder is None else find_card(encoder)
    if encoder is not None and made_by not in (encoder, None if card is None else card.id):
        raise SettingsError(
            f"{folder}: the features were made by {made_by}, and --encoder names {encoder}; leave "
            "it out."
        )


def _choose_magnifications(
    settings: RunSettings, facts: FolderFacts, folder: FeatureFolder
) -> tuple[float, ...]:
    wanted, traits = settings.slide.magnifications, settings.model.traits
    if traits.zooms and len(facts.magnifications) < 2:
        raise SettingsError(
            f"{folder}: the features are of {_names(facts.magnifications)} only, and model "
            f"{settings.model.name} zooms; give a folder for each magnification, as "
            "--features 2.5=DIR,10=DIR, or choose a model of one magnification, such as abmil."
        )
    if set(wanted) <= set(facts.magnifications):
        return wanted
    return facts.magnifications if traits.multiple_magnifications else facts.magnifications[-1:]


def _with_name(
    encoder: EncoderSettings, name: str | dict[float, str], magnifications: Sequence[float]
) -> EncoderSettings:
    """Return encoder settings with another name; weights of other magnifications are dropped."""
    weights = encoder.weights
    if isinstance(weights, dict):
        weights = {each: path for each, path in weights.items() if each in magnifications} or None
    return replace(encoder, name=name, weights=weights)


@cache
def _log_once(level: int, text: str) -> None:
    """Log a text unless this process has logged it before."""
    logger.log(level, "%s", text)


def _names(magnifications: Sequence[float]) -> str:
    return ", ".join(f"{magnification:g}x" for magnification in magnifications)
