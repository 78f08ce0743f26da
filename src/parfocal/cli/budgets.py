"""The subcommand about budgets: calibrate."""

from typing import Annotated

import typer

from parfocal.cli.arguments import Cache, Cohort, Device, Features, Run
from parfocal.cli.parsing import parse_features


def calibrate(
    *,
    run: Run,
    cohort: Cohort,
    features: Features = None,
    cache: Cache = None,
    device: Device = "auto",
    max_disagreement: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Largest share of slides on which a model that stops early may give another class "
            "than after all rounds. A smaller share needs more validation slides.",
        ),
    ] = 0.05,
    min_probability: Annotated[
        float,
        typer.Option(metavar="P", help="Minimum probability of an answer that has settled."),
    ] = 0.9,
    round_patches: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of patches to visit in a round.")
    ] = 16,
) -> None:
    """Choose, on the validation slides of a run, when a model that zooms stops visiting a slide.

    Writes the rule into the run, or into each of its folds. `predict` and `evaluate` apply it with
    `--budget settled`; `evaluate` also compares the results with those without a budget.

    Example: `parfocal calibrate run cohort.csv`
    """
    from parfocal.evaluate.calibrate import calibrate_runs

    calibrations = calibrate_runs(
        run,
        cohort,
        features=parse_features(features),
        cache=cache,
        device=device,
        max_disagreement=max_disagreement,
        min_probability=min_probability,
        round_patches=round_patches,
    )
    for each in calibrations:
        typer.echo(each.text)
