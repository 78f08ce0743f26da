"""Check the settings of what a model makes one prediction for: slides, patients, covariates."""

from parfocal.models.covariates import CovariateError, covariate_columns
from parfocal.settings.errors import SettingsError
from parfocal.settings.sections import RunSettings


def check_unit(settings: RunSettings) -> None:
    """Refuse settings of patients and covariates that do not go with the model.

    Raises:
        SettingsError: there are such settings.
    """
    train, name, traits = settings.train, settings.model.name, settings.model.traits
    try:
        covariate_columns(train.covariates)
    except CovariateError as error:
        raise SettingsError(f"train.covariates: {error}") from None
    if train.fusion is not None and train.per == "slide":
        raise SettingsError(
            f"train.fusion={train.fusion} joins the predictions for the slides of a patient; add "
            "--per patient, or leave it out."
        )
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
