"""Check the settings of what a model makes one prediction for: slides, patients, covariates."""

from collections.abc import Sequence

from parfocal.dataset.columns import is_administrative
from parfocal.models.covariates import CovariateError, covariate_columns
from parfocal.settings.errors import SettingsError
from parfocal.settings.sections import RunSettings
from parfocal.tasks.registry import refuse_fusion


def check_unit(settings: RunSettings) -> None:
    """Refuse settings of patients and covariates that do not go with the model.

    Raises:
        SettingsError: there are such settings.
    """
    train, name, traits = settings.train, settings.model.name, settings.model.traits
    try:
        _check_columns(covariate_columns(train.covariates), train.build_task().columns)
    except CovariateError as error:
        raise SettingsError(f"train.covariates: {error}") from None
    if train.fusion is not None and train.per == "slide":
        raise SettingsError(
            f"train.fusion={train.fusion} joins the predictions for the slides of a patient; add "
            "--per patient, or leave it out."
        )
    try:
        refuse_fusion(train.fusion, train.build_task())
    except ValueError as error:
        raise SettingsError(f"train.fusion: {error}") from None
    if train.per == "slide" or traits.takes == "nothing":
        return
    if traits.needs_outlines:
        raise SettingsError(
            f"train.per=patient: model {name} is trained on outlines of lesions, slide by slide; "
            "train it per slide, and evaluate it with --per patient --fusion max."
        )
    if traits.takes_pixels and train.fusion not in ("mean", "max"):
        raise SettingsError(
            f"train.per=patient: model {name} takes pixels, and reads one slide at a time, so the "
            "slides of a patient cannot be one bag; use --fusion mean or max."
        )


def _check_columns(covariates: Sequence[str], targets: Sequence[str]) -> None:
    """Refuse covariates that are targets, or that are not properties of a patient.

    Raises:
        CovariateError: there is one.
    """
    for column in covariates:
        if column in targets:
            raise CovariateError(
                f"{column} is what the model predicts, so the model could copy it; remove it from "
                "the covariates."
            )
        if is_administrative(column):
            raise CovariateError(
                f"{column} identifies a slide or its part of the split, and is not clinical; "
                "remove it."
            )


def require_covariates(settings: RunSettings) -> None:
    """Refuse to train a model of covariates alone without any.

    Raises:
        SettingsError: the columns are not named.
    """
    if settings.model.traits.takes == "nothing" and not settings.train.covariates:
        raise SettingsError(
            f"model {settings.model.name} predicts from covariates alone; name their columns, for "
            "example --covariates age,sex."
        )
