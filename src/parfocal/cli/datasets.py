"""Subcommands about public data sets: cohort."""

from pathlib import Path
from typing import Annotated

import typer

from parfocal.cli.arguments import finish


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
    out: Annotated[Path | None, typer.Option(metavar="CSV", help="The table to write.")] = None,
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
