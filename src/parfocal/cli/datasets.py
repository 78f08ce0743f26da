"""The subcommand about the tables of papers: reproduce."""

from pathlib import Path
from typing import Annotated

import typer

from parfocal.cli.arguments import (
    Cache,
    Device,
    EncoderName,
    Epochs,
    NamedOverrides,
    Partial,
    ResumableOut,
    ShardText,
    TimedSlides,
)
from parfocal.cli.checks import ArgumentError, wrong_usage
from parfocal.cli.encoders import TrustRemoteCode
from parfocal.cli.failures import finish
from parfocal.cli.next_step import open_in_browser, say_next
from parfocal.cli.parsing import parse_distribution, refuse_unknown_encoder, wrong_settings
from parfocal.cli.submit import (
    Array,
    JobOptions,
    Partition,
    Sbatch,
    Submit,
    Time,
    Yes,
    submit_command,
)
from parfocal.cli.workers import Gpus, GpusPerWorker, Ray, Threads, Workers, worker_engine


def reproduce(
    *,
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            help="zoommil-bright, zoommil-camelyon16, magnet-camelyon, jsma-bach or jsma-prad.",
        ),
    ],
    data: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder of the data set, as published.")
    ],
    out: ResumableOut,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only estimate hours and disk space.")
    ] = False,
    seeds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of training runs of each model.")
    ] = 3,
    epochs: Epochs = None,
    encoder: EncoderName = None,
    trust_remote_code: TrustRemoteCode = False,
    cache: Cache = None,
    device: Device = "auto",
    timed: TimedSlides = 3,
    partial: Partial = False,
    overrides: NamedOverrides = None,
    workers: Workers = None,
    ray: Ray = None,
    gpus: Gpus = None,
    gpus_per_worker: GpusPerWorker = None,
    threads: Threads = None,
    submit: Submit = None,
    partition: Partition = None,
    time_limit: Time = None,
    array: Array = None,
    sbatch: Sbatch = None,
    yes: Yes = False,
    shard: ShardText = None,
) -> None:
    """Run the experiments of a paper and print its tables with our numbers next to the paper's.

    Writes table.md, table.csv and page.html, which has the figures. The settings are those of the
    paper; every change to them is listed below the table. Run the same command again to resume.

    Example: `parfocal reproduce zoommil-camelyon16 --data CAMELYON16 --out c16 --dry-run`
    """
    if dry_run and submit is not None:
        raise ArgumentError("--dry-run takes seconds and runs here; leave --submit out.")
    job = JobOptions(submit, partition, time_limit, array, sbatch, yes)
    if submit_command(*(out, job), workers=workers, threads=threads, gpus=gpus, then_report=True):
        return
    from parfocal.reproduce import plan, read_table
    from parfocal.reproduce import reproduce as run_table

    refuse_unknown_encoder(encoder)
    with wrong_usage(ValueError):
        reproduction = read_table(
            table,
            overrides=overrides or (),
            epochs=epochs,
            encoder=encoder,
            trust_remote_code=trust_remote_code,
        )
    if dry_run:
        with wrong_settings({"encoder.name": encoder}):
            planned = plan(reproduction, data, out, seeds=seeds, device=device)
        typer.echo(planned.to_markdown())
        say_next("the same command without --dry-run")
        return
    engine = worker_engine(
        workers=workers,
        ray=ray,
        gpus=gpus,
        gpus_per_worker=gpus_per_worker,
        threads=threads,
        device=device,
    )
    with wrong_settings({"encoder.name": encoder}):
        result = run_table(
            reproduction,
            data,
            out,
            seeds=seeds,
            cache=cache,
            device=device,
            partial=partial,
            timed=timed,
            distribution=parse_distribution(shard, engine),
        )
    typer.echo((out / "table.md").read_text(encoding="utf-8"))
    try:
        then = open_in_browser(out / "page.html")
        finish(result.failed, result.experiments, unit="experiments", then=then)
    finally:  # the first call exits if an experiment failed; damaged slides are listed anyway
        finish(result.made.damaged, len(result.made.rows) + len(result.made.damaged))
