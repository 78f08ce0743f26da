"""Subcommand that compares encoders: probe."""

from typing import Annotated, Literal

import typer

from parfocal.cli.arguments import ONE_ENCODER, Cohort, Device, ResumableOut
from parfocal.cli.checks import finite_number
from parfocal.cli.encoders import TrustRemoteCode
from parfocal.cli.failures import report_failures
from parfocal.cli.next_step import say_next
from parfocal.cli.parsing import parse_encoder_list

RETRY = "correct what failed, and run the same command again; finished results are kept"


def probe(
    *,
    cohort: Cohort,
    encoders: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME,...",
            help=f"Patch encoders. Each is {ONE_ENCODER}",
        ),
    ],
    out: ResumableOut,
    patches: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of patches to draw on each slide.")
    ] = 300,
    magnification: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            metavar="M",
            help="Magnification for all encoders. Default: each one's own.",
            callback=finite_number,
        ),
    ] = None,
    any_mpp: Annotated[
        bool,
        typer.Option(
            "--any-mpp", help="Use encoders even at a --magnification they were not made for."
        ),
    ] = False,
    metric: Annotated[
        Literal["auroc_macro", "weighted_f1", "accuracy"],
        typer.Option(
            metavar="METRIC",
            help="Metric to rank the encoders by: auroc_macro, weighted_f1 or accuracy.",
        ),
    ] = "auroc_macro",
    folds: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Number of cross-validation folds.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of the split and of the patches.")
    ] = 0,
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Choose an encoder: compare linear probes on a few patches of each slide.

    All encoders get patches at the same places of the same slides. Writes probe.json and the mean
    features of each slide, so that only new encoders are run when you add some to the list.

    Example: `parfocal probe cohort.csv --encoders efficientnet-lite0,uni2-h --out probe`
    """
    from parfocal.probe import probe as probe_encoders

    report = probe_encoders(
        cohort,
        parse_encoder_list(encoders),
        out,
        patches=patches,
        magnification=magnification,
        metric=metric,
        folds=folds,
        seed=seed,
        device=device,
        any_mpp=any_mpp,
        trust_remote_code=trust_remote_code,
    )
    typer.echo(report.to_json() if as_json else "\n".join(report.lines()), nl=not as_json)
    reasons = {row.name: row.reason for row in report.rows if row.reason is not None}
    report_failures(reasons, len(report.rows), unit="encoders")
    report_failures(report.failed, report.slides)
    failed = bool(reasons or report.failed)
    advice = report.advice(trust_remote_code=trust_remote_code)
    if not as_json and advice is not None:
        say_next(RETRY if failed else advice)
    if failed:
        raise typer.Exit(1)
