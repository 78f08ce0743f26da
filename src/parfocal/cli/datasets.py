"""Subcommands about public data sets: cohort, reproduce."""

from pathlib import Path
from typing import Annotated

import typer

from parfocal.cli.arguments import (
    ENCODERS_SET,
    Cache,
    Device,
    OutToGoOnWith,
    file_to_write,
    finish,
)


def cohort(
    *,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="camelyon16, camelyon17, camelyon (both), bright, bracs, bach, tcga-prad, panda.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the data set lies.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="The table to write.", callback=file_to_write),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, where none is published.")] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check published sums too; reads every byte.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Go on when over 5% of the slides are not here.")
    ] = False,
    download: Annotated[
        str | None,
        typer.Option(metavar="SLIDE,...", help="Fetch these first (camelyon16, 17); or `all`."),
    ] = None,
    bucket: Annotated[
        str | None, typer.Option(metavar="URL", help="Where to fetch from, if not the owners'.")
    ] = None,
) -> None:
    """Turn a public data set's folder into a cohort CSV, with outlines where it has them.

    Slides that are missing or damaged are named, counted and left out. The network is used with
    `--download` alone.

    Example: `parfocal cohort camelyon16 CAMELYON16 --out camelyon16.csv`
    """
    from parfocal.dataset.readers import make_cohort

    if out is None and download is None:
        raise typer.BadParameter("give --out, --download or both", param_hint="--out")
    if download is not None:
        _fetch(name, folder, download.split(","), bucket)
    if out is None:
        return
    made = make_cohort(name, folder, out, seed=seed, verify=verify, partial=partial)
    for note in made.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{made.summary}; the table is {out}")
    if made.missing:
        typer.echo(f"parfocal: {made.gone} missing: {', '.join(made.missing)}", err=True)
    finish(made.damaged, len(made.rows) + len(made.damaged))
    if made.missing and not partial:
        raise typer.Exit(1)


def _fetch(name: str, folder: Path, slides: list[str], bucket: str | None) -> None:
    """Say how much will come, then fetch it, file by file."""
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
        Path, typer.Option(metavar="FOLDER", help="The data set, as its owners publish it.")
    ],
    out: OutToGoOnWith,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take, and do nothing.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Train each model so many times.")] = 3,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most.")] = None,
    encoder: Annotated[str | None, typer.Option(metavar="NAME", help=ENCODERS_SET)] = None,
    cache: Cache = None,
    device: Device = "auto",
    timed: Annotated[int, typer.Option(min=0, help="Slides to read from their files.")] = 3,
    partial: Annotated[
        bool, typer.Option("--partial", help="Go on when over 5% of the slides are not here.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[NAME:]KEY=VALUE", help="One setting of all, or of one."),
    ] = None,
) -> None:
    """Run a paper's experiments, and print its tables with our numbers beside its own.

    DIR gets table.md, table.csv and page.html, with the paper's figures. Settings are the paper's;
    those given here are told below the table. The same command goes on where it stopped.

    Example: `parfocal reproduce zoommil-camelyon16 --data CAMELYON16 --out c16 --dry-run`
    """
    from parfocal.reproduce import plan, read_table
    from parfocal.reproduce import reproduce as run_table

    reproduction = read_table(table, overrides=overrides or (), epochs=epochs, encoder=encoder)
    if dry_run:
        typer.echo(plan(reproduction, data, out, seeds=seeds, device=device).to_markdown())
        return
    found = run_table(
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
        finish(found.failed, found.experiments, what="experiments")
    finally:  # what the first says does not keep the second from being said
        finish(found.made.damaged, len(found.made.rows) + len(found.made.damaged))
