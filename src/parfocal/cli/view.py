"""Subcommands that show results: view, report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from parfocal.cli.arguments import (
    AllowRedirect,
    Host,
    Mpp,
    Port,
    RemoteCache,
    Scratch,
    local_run_texts,
    local_runs,
)
from parfocal.cli.next_step import open_in_browser, say_next
from parfocal.cli.parsing import parse_slides, remote_access
from parfocal.cli.places import optional, output_folder, output_page
from parfocal.printable import counted

Predictions = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH...",
        help="Prediction files, folders that contain them, slide files or their addresses, and "
        "runs, whose labels are shown; hf:OWNER/NAME for a model of the Hub.",
        callback=local_run_texts,
    ),
]
CohortFile = Annotated[
    Path | None,
    typer.Option(
        metavar="CSV", help="Cohort with labels and outlines. Default: cohort.csv in the folders."
    ),
]
MovedSlides = Annotated[
    list[Path] | None,
    typer.Option(
        "--slides", metavar="DIR", help="Folder the slide files were moved to. Repeatable."
    ),
]


def view(
    *,
    paths: Predictions,
    cohort: CohortFile = None,
    slides: MovedSlides = None,
    mpp: Mpp = None,
    host: Host = "127.0.0.1",
    port: Port = 8642,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Accept requests for this host name, such as a proxy's. Repeatable.",
        ),
    ] = None,
    remote_cache: RemoteCache = None,
    scratch: Scratch = None,
    allow_redirect: AllowRedirect = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """Show predictions in a browser: the slide, the visited patches and their attention.

    Labels and outlines come from a cohort.csv and from runs in the given folders.

    Example: `parfocal view predictions`
    """
    from parfocal.explain import viewer
    from parfocal.explain.library import load_library

    access = remote_access(remote_cache, scratch, allow_redirect, copies=False)
    library = load_library(
        parse_slides(paths, access), cohort=cohort, moved_to=slides or (), mpp=mpp, access=access
    )
    _print_problems(library.problems)
    with viewer.listen(host, port) as listening:
        if not viewer.is_loopback(host):
            typer.echo("parfocal: other computers that reach this address see the slides", err=True)
        address = viewer.address_of(listening)
        typer.echo(f"{counted(len(library.slides), 'slide')} at {address} (press Ctrl-C to stop)")
        if browser:
            typer.launch(address)
        viewer.serve(library, listening, allowed_hosts=allow_host or ())


def report(
    *,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Folders of runs, evaluations or predictions, or folders that contain them; "
            "hf:OWNER/NAME for a model of the Hub.",
            callback=local_runs,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Page to write.", callback=optional(output_page)),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for a printable page for each patient, and index.html.",
            callback=optional(output_folder),
        ),
    ] = None,
    cohort: CohortFile = None,
    slides: MovedSlides = None,
) -> None:
    """Write runs, evaluations and predictions as one self-contained HTML page.

    With `--patients`, each patient gets a printable page: answer, threshold, where the model
    looked, cost, and the model card, which needs the folders of the run and its evaluation.

    Example: `parfocal report run evaluation predictions --out report.html`
    """
    problems: tuple[str, ...] = ()
    written: list[Path] = []
    if out is None and patients is None:
        raise typer.BadParameter("give --out, --patients or both", param_hint="--out")
    if out is not None:
        from parfocal.explain.report import write_report

        problems = write_report(paths, out, cohort=cohort, moved_to=slides or ())
        size = out.stat().st_size
        size_text = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"
        typer.echo(f"{out}: {size_text}")
        written.append(out)
    if patients is not None:
        from parfocal.explain.patients import write_patients

        pages = write_patients(paths, patients, cohort=cohort, moved_to=slides or ())
        typer.echo(f"{pages.index}: {counted(pages.count, 'patient')}")
        written.append(pages.index)
        problems = tuple(dict.fromkeys((*problems, *pages.problems)))
    _print_problems(problems)
    say_next(open_in_browser(*written))
    if problems:
        raise typer.Exit(1)


def _print_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        typer.echo(f"parfocal: {problem}", err=True)
