"""Options about what a model makes one prediction for: slides, patients, covariates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from parfocal.models.unit import Unit

Per = Annotated[
    Literal["slide", "patient"] | None,
    typer.Option(
        "--per",
        metavar="UNIT",
        help="slide, or patient: one prediction for all slides with one patient_id. Default: slide "
        "in training, otherwise as in training.",
    ),
]
Fusion = Annotated[
    Literal["mean", "max", "attention"] | None,
    typer.Option(
        "--fusion",
        metavar="FUSION",
        help="How to combine the slides of a patient: mean, max or attention. Default: "
        "one bag of all slides.",
    ),
]
Covariates = Annotated[
    str | None,
    typer.Option(
        "--covariates",
        metavar="COLUMN,...",
        help="Clinical columns of the cohort to use as inputs, such as age,sex,stage:category.",
    ),
]
Patients = Annotated[
    Path | None,
    typer.Option(
        "--patients",
        metavar="TABLE",
        help="Table with columns patient and slide, and the covariates of the model.",
    ),
]


def parse_covariates(text: str | None) -> list[str] | None:
    """Return the names of the columns; None if none were given."""
    return None if text is None else [name.strip() for name in text.split(",")]


def refuse_unused_table(unit: "Unit", patients: Path | None) -> None:
    """Refuse a table of patients that a model has no use for, and a model without its table.

    Raises:
        ValueError: there is one without the other.
    """
    if patients is None and unit.columns:
        raise ValueError(
            f"the model also predicts from {', '.join(unit.columns)}; give --patients TABLE with "
            f"the columns {', '.join(('slide', *unit.columns))}"
            f"{' and patient' if unit.per == 'patient' else ''} (an empty cell is a missing value)."
        )
    if patients is None and unit.per == "patient":
        raise ValueError(
            "the model predicts per patient; give --patients TABLE with the columns patient and "
            "slide."
        )
    if patients is not None and unit.per == "slide" and not unit.columns:
        raise ValueError(
            "--patients: the model predicts per slide; leave the table out, or add --per patient "
            "--fusion mean (or max)."
        )
