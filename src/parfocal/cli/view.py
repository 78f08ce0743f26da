"""Subcommands that show: view, report."""

from pathlib import Path
from typing import Annotated

import typer

from parfocal.cli.arguments import Mpp, file_to_write

Shown = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...", help="Predictions, folders of them (or a folder around), slide files."
    ),
]
CohortFile = Annotated[
    Path | None,
    typer.Option(metavar="CSV", help="Labels and outlines, where no cohort.csv lies beside."),
]
Moved = Annotated[
    list[Path] | None,
    typer.Option("--slides", metavar="DIR", help="Where slides are that have moved since."),
]


def view(
    *,
    paths: Shown,
    cohort: CohortFile = None,
    slides: Moved = None,
    mpp: Mpp = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others may reach it.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8642,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it.")] = True,
) -> None:
    """Look at predictions in a browser: the slide, what the model looked at, and why.

    Labels and outlines come from the cohort.csv and runs in the folders given.

    Example: `parfocal view predictions`, or a slide file alone
    """
    from parfocal.explain import viewer
    from parfocal.explain.library import gather

    library = gather(paths, cohort=cohort, moved_to=slides or (), mpp=mpp)
    with viewer.listen(host, port) as listening:
        if not viewer.is_loopback(host):
            typer.echo("parfocal: whoever can reach this address can see these slides", err=True)
        address = viewer.address_of(listening)
        typer.echo(f"{len(library.slides)} slides at {address} (Ctrl-C ends)")
        if browser:
            typer.launch(address)
        viewer.serve(library, listening)


def report(
    *,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="Folders of runs, evaluations, predictions, or around them."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="FILE.html", help="Page to write.", callback=file_to_write)
    ],
    cohort: CohortFile = None,
    slides: Moved = None,
) -> None:
    """Write runs, evaluations and predictions as one page that stands alone, also for print.

    Example: `parfocal report run evaluation predictions --out report.html`
    """
    from parfocal.explain.report import write_report

    write_report(paths, out, cohort=cohort, moved_to=slides or ())
    size = out.stat().st_size
    told = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"
    typer.echo(f"{out}: {told}; open it in a browser")
