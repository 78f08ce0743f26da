"""Options for how probabilities become decisions."""

from typing import Annotated

import typer

ThresholdText = Annotated[
    str | None,
    typer.Option(
        "--threshold",
        metavar="RULE",
        help="Choose a threshold on the validation slides: youden, sensitivity=0.95, "
        "specificity=0.95, or a number. Default: the most probable class.",
    ),
]
Temperature = Annotated[
    bool,
    typer.Option("--temperature", help="Calibrate the probabilities on the validation slides."),
]
