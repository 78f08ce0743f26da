"""Subcommands about public data sets: cohort, reproduce."""

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
    TimedSlides,
    output_file,
)
from parfocal.cli.failures import finish


def cohort(
    *,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="camelyon16, camelyon17, camelyon (both), bright, bracs, bach, tcga-prad, panda.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the data set.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Cohort file to write.", callback=output_file(".csv")),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Seed of the split, if the data set has none."),
    ] = 0,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Also check published MD5 sums, which reads all files."),
    ] = False,
    partial: Partial = False,
    download: Annotated[
        str | None,
        typer.Option(
            metavar="SLIDE,...",
            help="Download these slides first, or `all` (camelyon16 and camelyon17 only).",
        ),
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Download from this address. Default: the official one."),
    ] = None,
) -> None:
    """Write the cohort CSV of a public data set, with its lesion outlines if it has any.

    Missing or damaged slides are left out and listed. Only `--download` uses the network.

    Example: `parfocal cohort camelyon16 CAMELYON16 --out camelyon16.csv`
    """
    from parfocal.dataset.readers import make_cohort

    if out is None and download is None:
        raise typer.BadParameter("give --out, --download or both", param_hint="--out")
    if download is not None:
        _download(name, folder, download.split(","), bucket)
    if out is None:
        return
    made = make_cohort(name, folder, out, seed=seed, verify=verify, partial=partial)
    for note in made.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{made.summary}; wrote {out}")
    if made.missing:
        typer.echo(f"parfocal: {made.num_missing} missing: {', '.join(made.missing)}", err=True)
    finish(made.damaged, len(made.rows) + len(made.damaged))
    if made.missing and not partial:
        raise typer.Exit(1)


def _download(name: str, folder: Path, slides: list[str], bucket: str | None) -> None:
    """Print the size of the download, then fetch it file by file."""
    from parfocal.dataset.readers.download import BUCKET, fetch, plan_download

    plan = plan_download(name, folder, slides, bucket or BUCKET)
    typer.echo(plan.summary)
    for remote in plan.files:
        fetch(remote)
        typer.echo(f"{remote.path}: {remote.size:,} bytes")


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
    cache: Cache = None,
    device: Device = "auto",
    timed: TimedSlides = 3,
    partial: Partial = False,
    overrides: NamedOverrides = None,
) -> None:
    """Run the experiments of a paper and print its tables with our numbers next to the paper's.

    Writes table.md, table.csv and page.html, which has the figures. The settings are those of the
    paper; every change to them is listed below the table. Run the same command again to resume.

    Example: `parfocal reproduce zoommil-camelyon16 --data CAMELYON16 --out c16 --dry-run`
    """
    from parfocal.reproduce import plan, read_table
    from parfocal.reproduce import reproduce as run_table

    reproduction = read_table(table, overrides=overrides or (), epochs=epochs, encoder=encoder)
    if dry_run:
        typer.echo(plan(reproduction, data, out, seeds=seeds, device=device).to_markdown())
        return
    result = run_table(
        reproduction,
        data,
        out,
        seeds=seeds,
        cache=cache,
        device=device,
        partial=partial,
        timed=timed,
    )
    typer.echo((out / "table.md").read_text(encoding="utf-8"))
    try:
        finish(result.failed, result.experiments, unit="experiments")
    finally:  # the first call exits if an experiment failed; damaged slides are listed anyway
        finish(result.made.damaged, len(result.made.rows) + len(result.made.damaged))
