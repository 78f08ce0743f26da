"""Who takes part in a comparison, and what has to be the same for all of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parfocal.features.header import SlideSettings
from parfocal.settings import RunSettings, load_settings


class ComparisonError(Exception):
    """A comparison that would not be fair, or cannot start; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """A model that takes part.

    Args:
        name: of its recipe, or of its YAML file.
        settings: of its runs, but for the seed.
    """

    name: str
    settings: RunSettings


def load_candidates(
    models: Sequence[str],
    *,
    overrides: Sequence[str] = (),
    epochs: int | None = None,
    folds: int | None = None,
    encoder: str | None = None,
) -> list[Candidate]:
    """Load the settings of all models, before any of them is trained.

    Args:
        models: names of recipes, or YAML files.
        overrides: single settings over all recipes, as `train.patience=5`, or over one, as
            `zoommil:model.k=24`.
        epochs: at most.
        folds: so many models of each are trained.
        encoder: of the patches, for models that are given features.

    Raises:
        SettingsError: a model, key or value is wrong.
        ComparisonError: two have one name, or would not get the same slides and patches; or an
            override is for none of them.
    """
    candidates = [
        load_candidate(
            Path(model).stem if Path(model).suffix in (".yaml", ".yml") else model,
            model,
            overrides=overrides,
            epochs=epochs,
            folds=folds,
            encoder=encoder,
        )
        for model in models
    ]
    refuse_unequal(candidates)
    names = [candidate.name for candidate in candidates]
    for override in overrides:
        if all(_addressed(override, name) is None for name in names):
            raise ComparisonError(
                f"--set {override}: no such model takes part; there are {', '.join(names)}."
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
) -> Candidate:
    """Load the settings of one model, which takes part under a name; see `load_candidates`."""
    addressed = (_addressed(override, name) for override in overrides)
    own = [override for override in addressed if override is not None]
    flags = {"train.epochs": epochs, "train.folds": folds}
    settings = load_settings(model, overrides=own, flags=flags)
    if encoder is not None and settings.encoder is not None:
        settings = replace(settings, encoder=replace(settings.encoder, name=encoder))
    return Candidate(name, settings)


def shared_slide_settings(candidates: Iterable[Candidate]) -> SlideSettings:
    """Give the patches that serve all candidates: those of every magnification any of them has."""
    settings = [candidate.settings.slide for candidate in candidates]
    union = {magnification for slide in settings for magnification in slide.magnifications}
    return replace(settings[0], magnifications=tuple(sorted(union)))


def _addressed(override: str, name: str) -> str | None:
    """Give an override for all, or for this name; None for another's."""
    address, colon, rest = override.partition(":")
    if not colon or "=" in address:
        return override
    return rest if address == name else None


def refuse_unequal(candidates: Sequence[Candidate]) -> None:
    """Refuse models that share a name, or would not get the same slides and patches.

    Raises:
        ComparisonError: there are any.
    """
    names = [candidate.name for candidate in candidates]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ComparisonError(
            f"{min(twice)} is named twice; name a model once, and a variant by a YAML file of its "
            "own."
        )
    for what in ("val_fraction", "test_fraction", "labels"):
        _refuse_different(
            f"train.{what}", {e.name: getattr(e.settings.train, what) for e in candidates}
        )
    featured = [candidate for candidate in candidates if candidate.settings.encoder is not None]
    for what in ("patch_size", "tissue", "min_tissue", "children"):
        _refuse_different(
            f"slide.{what}", {e.name: getattr(e.settings.slide, what) for e in featured}
        )


def _refuse_different(what: str, found: dict[str, object]) -> None:
    for name, value in found.items():
        first, expected = next(iter(found.items()))
        if value != expected:
            raise ComparisonError(
                f"{what} is {expected} for {first} and {value} for {name}, so they would not be "
                f"given the same; set one for all, as --set {what}={expected}."
            )
