"""The subcommand about budgets: calibrate."""

from typing import Annotated

import typer

from parfocal.cli.arguments import (
    AllowRedirect,
    Cache,
    Cohort,
    Device,
    External,
    Features,
    RemoteCache,
    Scratch,
    ScratchSize,
    WritableRun,
)
from parfocal.cli.checks import checked
from parfocal.cli.encoders import TrustRemoteCode
from parfocal.cli.next_step import after_calibrate, say_next
from parfocal.cli.parsing import parse_features, remote_access


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"{share:g}: give a share of slides above 0 and below 1.")


def _check_probability(probability: float) -> None:
    if not 0 <= probability < 1:
        raise ValueError(f"{probability:g}: give a probability from 0 to below 1.")


def calibrate(
    *,
    run: WritableRun,
    cohort: Cohort,
    features: Features = None,
    cache: Cache = None,
    device: Device = "auto",
    external: External = False,
    max_disagreement: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Largest share of slides on which a model that stops early may give another class "
            "than after all rounds. A smaller share needs more slides.",
            callback=checked(_check_share),
        ),
    ] = 0.05,
    min_probability: Annotated[
        float,
        typer.Option(
            metavar="P",
            help="Minimum probability of an answer that has settled.",
            callback=checked(_check_probability),
        ),
    ] = 0.9,
    round_patches: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of patches to visit in a round.")
    ] = 4,
    trust_remote_code: TrustRemoteCode = False,
    remote_cache: RemoteCache = None,
    scratch: Scratch = None,
    scratch_gb: ScratchSize = None,
    allow_redirect: AllowRedirect = None,
) -> None:
    """Choose, on validation slides, when a model that zooms stops visiting a slide.

    The slides are those of the validation set of the run or, with `--external`, those of a cohort
    that is not in the run. Writes the rule into the run, or into each of its folds. `predict` and
    `evaluate` apply it with `--budget settled`; `evaluate` also compares the results with those
    without a budget.

    Example: `parfocal calibrate run cohort.csv`
    """
    from parfocal.evaluate.calibrate import calibrate_runs

    calibrations = calibrate_runs(
        run,
        cohort,
        features=parse_features(features),
        cache=cache,
        device=device,
        external=external,
        max_disagreement=max_disagreement,
        min_probability=min_probability,
        round_patches=round_patches,
        trust_remote_code=trust_remote_code,
        access=remote_access(remote_cache, scratch, allow_redirect, scratch_gb),
    )
    for each in calibrations:
        typer.echo(each.text)
    settles = any(threshold < 1 for each in calibrations for threshold in each.rule.thresholds)
    options = {
        "--features": features,
        "--device": None if device == "auto" else device,
        "--trust-remote-code": trust_remote_code,
    }
    say_next(after_calibrate(run, options, settles=settles))
