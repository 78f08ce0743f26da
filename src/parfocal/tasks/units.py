"""Give a model the slides or the patients that it makes predictions for, with their covariates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import Inputs
from parfocal.dataset.patient_inputs import patient_inputs
from parfocal.dataset.patients import group_slides
from parfocal.models.covariates import fit_covariates
from parfocal.models.unit import Unit, fusion_of


def unit_inputs(slides: Inputs, unit: Unit, classes: Sequence[str]) -> Inputs:
    """Return what opens the slides or patients of a model.

    Args:
        slides: opens slides.
        unit: what the model makes one prediction for.
        classes: class labels of the task; empty for a task without classes.
    """
    covariates = unit.covariates
    if unit.per == "slide" and covariates is None:
        return slides

    def encode(values: Mapping[str, str], name: str) -> Tensor:
        assert covariates is not None
        return covariates.encode(values, name)

    return patient_inputs(
        slides,
        fusion=fusion_of(unit, classes),
        encode=None if covariates is None else encode,
    )


def entries_of(unit: Unit, slides: Sequence[CohortSlide], source: str) -> tuple[CohortSlide, ...]:
    """Return the slides, or the patients that they are of, that a model makes predictions for.

    Args:
        unit: what the model makes one prediction for.
        slides: slides of a cohort.
        source: name of their table, for messages.

    Raises:
        CohortError: slides of a patient contradict each other.
    """
    return group_slides(slides, source) if unit.per == "patient" else tuple(slides)


def fit_unit(unit: Unit, covariates: Sequence[str], slides: Sequence[CohortSlide]) -> Unit:
    """Return a unit with covariates as they are in the training slides, or patients.

    Args:
        unit: what the model makes one prediction for.
        covariates: columns of the covariates; empty for none.
        slides: training slides.

    Raises:
        CovariateError: a column cannot be a covariate.
        CohortError: slides of a patient contradict each other.
    """
    if not covariates:
        return unit
    rows = [entry.values for entry in entries_of(unit, slides, "split.csv")]
    return replace(unit, covariates=fit_covariates(covariates, rows))


def training_entries_of(
    unit: Unit, slides: Sequence[CohortSlide], source: str
) -> tuple[CohortSlide, ...]:
    """Return what a model is trained on: the same, or slides if it fuses their predictions.

    Args:
        unit: what the model makes one prediction for.
        slides: training slides.
        source: name of their table, for messages.

    Raises:
        CohortError: slides of a patient contradict each other.
    """
    if unit.fusion in ("mean", "max"):
        return tuple(slides)
    return entries_of(unit, slides, source)
