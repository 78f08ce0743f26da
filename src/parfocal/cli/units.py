"""Options about what a model makes one prediction for: slides, patients, covariates."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Per = Annotated[
    Literal["slide", "patient"] | None,
    typer.Option(
        "--per",
        metavar="UNIT",
        help="slide, or patient: one prediction for all slides with one patient_id. Default: slide "
        "in training, else that of the training.",
    ),
]
Fusion = Annotated[
    Literal["mean", "max", "attention"] | None,
    typer.Option(
        "--fusion",
        metavar="FUSION",
        help="Join the predictions for the slides of a patient: mean, max or attention. Default: "
        "one bag of all slides.",
    ),
]
Covariates = Annotated[
    str | None,
    typer.Option(
        "--covariates",
        metavar="COLUMN,...",
        help="Clinical columns of the cohort to predict from, too, as age,sex,stage:category.",
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
