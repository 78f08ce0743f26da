"""The candidates of a comparison, and the settings that all of them must share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from parfocal.features.header import SlideSettings
from parfocal.settings import EncoderSettings, RunSettings, load_settings
from parfocal.settings.check_unit import require_covariates
from parfocal.settings.encoders import check_encoders, parse_per_magnification


class ComparisonError(Exception):
    """A comparison that would be unfair or that cannot start; the message gives the reason."""


@dataclass(frozen=True)
class Candidate:
    """A model to compare.

    Args:
        name: name of the recipe, or of the YAML file without its suffix.
        settings: settings of its runs; the seed is set for each run.
    """

    name: str
    settings: RunSettings

    @property
    def trust_remote_code(self) -> bool:
        """Whether to run code from the repository of an encoder."""
        return self.settings.encoder is not None and self.settings.encoder.trust_remote_code


def load_candidates(
    models: Sequence[str],
    *,
    overrides: Sequence[str] = (),
    epochs: int | None = None,
    folds: int | None = None,
    encoder: str | None = None,
    trust_remote_code: bool = False,
    flags: Mapping[str, object] | None = None,
) -> list[Candidate]:
    """Load the settings of all models, before any of them is trained.

    Args:
        models: names of recipes, or YAML files.
        overrides: single settings for all models, as `train.patience=5`, or for one, as
            `zoommil:model.k=24`.
        epochs: maximum number of epochs.
        folds: number of cross-validation folds.
        encoder: patch encoder of the models that take features, or encoders by magnification, as
            `1.25=NAME,10=NAME`, of which each model takes those of its magnifications.
        trust_remote_code: whether to run code from the repository of an encoder.
        flags: further settings of all models by name, such as {"train.per": "patient"}; None as a
            value leaves a setting as it is.

    Raises:
        SettingsError: a model, key or value is invalid.
        ComparisonError: two models have the same name or would get different slides or patches,
            or an override names a model that is not compared.
    """
    candidates = [
        load_candidate(
            Path(model).stem if Path(model).suffix in (".yaml", ".yml") else model,
            model,
            overrides=overrides,
            epochs=epochs,
            folds=folds,
            encoder=encoder,
            trust_remote_code=trust_remote_code,
            flags=flags,
        )
        for model in models
    ]
    refuse_unequal(candidates)
    _refuse_unused_encoder(candidates, encoder)
    names = [candidate.name for candidate in candidates]
    for override in overrides:
        if all(_override_for(override, name) is None for name in names):
            raise ComparisonError(
                f"--set {override}: this model is not compared; the models are {', '.join(names)}."
            )
    return candidates


def load_candidate(
    name: str,
    model: str,
    *,
    overrides: Sequence[str] = (),
    epochs: int | None = None,
    folds: int | None = None,
    encoder: str | None = None,
    trust_remote_code: bool = False,
    flags: Mapping[str, object] | None = None,
) -> Candidate:
    """Load the settings of one model under a name; see `load_candidates`."""
    addressed = (_override_for(override, name) for override in overrides)
    own = [override for override in addressed if override is not None]
    set_here = {override.partition("=")[0] for override in own}
    others = {key: value for key, value in (flags or {}).items() if key not in set_here}
    flags = {"train.epochs": epochs, "train.folds": folds, **others}
    settings = load_settings(model, overrides=own, flags=flags)
    require_covariates(settings)
    if encoder is not None and settings.encoder is not None:
        settings = _with_encoder(settings, settings.encoder, encoder)
    if trust_remote_code and settings.encoder is not None:
        settings = replace(settings, encoder=replace(settings.encoder, trust_remote_code=True))
    return Candidate(name, settings)


def shared_slide_settings(candidates: Iterable[Candidate]) -> SlideSettings:
    """Return slide settings with the magnifications of all candidates."""
    settings = [candidate.settings.slide for candidate in candidates]
    union = {magnification for slide in settings for magnification in slide.magnifications}
    return replace(settings[0], magnifications=tuple(sorted(union)))


def _with_encoder(settings: RunSettings, current: EncoderSettings, text: str) -> RunSettings:
    """Return settings with another encoder, or with those of their magnifications."""
    encoder, magnifications = parse_per_magnification(text), settings.slide.magnifications
    if isinstance(encoder, dict):
        encoder = {each: encoder[each] for each in magnifications if each in encoder}
    replaced = replace(current, name=encoder)
    check_encoders(replaced, magnifications)
    return replace(settings, encoder=replaced)


def _refuse_unused_encoder(candidates: Sequence[Candidate], text: str | None) -> None:
    """Refuse an encoder for a magnification that no model has."""
    encoder = "" if text is None else parse_per_magnification(text)
    if isinstance(encoder, str):
        return
    slides = [each.settings.slide for each in candidates if each.settings.encoder is not None]
    used = {magnification for slide in slides for magnification in slide.magnifications}
    for magnification, name in encoder.items():
        if magnification not in used:
            raise ComparisonError(
                f"--encoder: {magnification:g}x has {name}, but no model has "
                f"this magnification; the models have {', '.join(f'{m:g}' for m in sorted(used))}."
            )


def _override_for(override: str, name: str) -> str | None:
    """Return an override without its model name; None if it is for another model."""
    address, colon, rest = override.partition(":")
    if not colon or "=" in address:
        return override
    return rest if address == name else None


def refuse_unequal(candidates: Sequence[Candidate]) -> None:
    """Refuse models that share a name, or that would get different slides or patches.

    Raises:
        ComparisonError: there are such models.
    """
    names = [candidate.name for candidate in candidates]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ComparisonError(
            f"{min(repeated)} is listed twice; list a model once, and a variant of it as a YAML "
            "file of its own."
        )
    for key in ("val_fraction", "test_fraction", "labels", "per"):
        values = {c.name: getattr(c.settings.train, key) for c in candidates}
        _refuse_different(f"train.{key}", values)
    with_features = [c for c in candidates if c.settings.encoder is not None]
    may_differ = ("magnifications", "roots")  # each model gets its own patches
    for key in (field.name for field in fields(SlideSettings) if field.name not in may_differ):
        values = {c.name: getattr(c.settings.slide, key) for c in with_features}
        _refuse_different(f"slide.{key}", values)


def _refuse_different(key: str, values: dict[str, object]) -> None:
    for name, value in values.items():
        first, expected = next(iter(values.items()))
        if value != expected:
            raise ComparisonError(
                f"{key} is {expected} for {first} and {value} for {name}, so their results would "
                f"not be comparable; set one value for all, as --set {key}={expected}."
            )
