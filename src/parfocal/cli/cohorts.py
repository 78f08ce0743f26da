"""Subcommands that write a cohort CSV: cohort convert, and cohort NAME for public data sets."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from parfocal.cli.arguments import Partial
from parfocal.cli.checks import wrong_usage
from parfocal.cli.command import Command
from parfocal.cli.failures import finish
from parfocal.cli.next_step import quoted, say_next
from parfocal.cli.places import output_file, written_folder

# Keys of `parfocal.dataset.readers.READERS`, which is not imported here.
DATA_SETS = (
    *("camelyon16", "camelyon17", "camelyon", "bright", "bracs", "bach", "tcga-prad", "panda"),
)

DATA_SET_HELP = """Write the cohort CSV of a public data set, with lesion outlines if it has any.

Missing or damaged slides are left out and listed. Only `--download` uses the network.

Example: `parfocal cohort {name} {folder} --out {name}.csv`
"""

cohort = typer.Typer(
    help="Write a cohort CSV from tables of other tools, or from the folder of a public data set.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@cohort.command(cls=Command)
def convert(
    *,
    tables: Annotated[
        list[Path],
        typer.Argument(
            metavar="TABLE...",
            help="Tables (.csv, .tsv, .xlsx), splits (.csv, splits.json), or folders of them.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="CSV", help="Cohort file to write.", callback=output_file(".csv")),
    ],
    layout: Annotated[
        Literal["stamp", "clam", "patho-bench", "excel"] | None,
        typer.Option(
            "--from",
            metavar="TOOL",
            help="Tool that wrote the tables: stamp, clam, patho-bench or excel (any table). "
            "Default: recognized by the columns.",
        ),
    ] = None,
    slides: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder of the slides, or of their features. Repeatable."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the class.")
    ] = None,
    patient: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the patient.")
    ] = None,
    slide: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the slide.")
    ] = None,
    sheet: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Sheet of a workbook. Default: all. Repeatable."),
    ] = None,
    splits: Annotated[
        bool, typer.Option("--splits/--no-splits", help="Use the splits of the tables.")
    ] = True,
    folds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep the first N folds only.")
    ] = None,
    partial: Partial = False,
) -> None:
    """Convert tables of STAMP, CLAM, Patho-Bench or a spreadsheet into a cohort CSV.

    Prints what was kept, renamed and dropped. Slides without a file in `--slides` are left out and
    listed.

    Example: `parfocal cohort convert clini.xlsx slide.csv --label isMSIH --slides slides --out
    cohort.csv`
    """
    from parfocal.dataset.foreign import Options, convert_tables
    from parfocal.printable import printable

    options = Options(
        layout,
        tuple(slides or ()),
        label,
        patient,
        slide,
        tuple(sheet or ()),
        splits=splits,
        folds=folds,
    )
    converted = convert_tables(tables, out, options)
    for note in converted.notes:
        typer.echo(printable(note))
    typer.echo(f"{converted.summary}; wrote {out}")
    say_next(converted.next_command)
    if converted.missing:
        names = printable(", ".join(converted.missing))
        typer.echo(f"parfocal: {len(converted.missing)} slides have no file: {names}", err=True)
        if not partial:
            raise typer.Exit(1)


DataFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the data set.")]
CohortFile = Annotated[
    Path | None,
    typer.Option(metavar="CSV", help="Cohort file to write.", callback=output_file(".csv")),
]
Seed = Annotated[
    int, typer.Option(min=0, metavar="N", help="Seed of the split, if the data set has none.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Also check published MD5 sums, which reads all files.")
]
Download = Annotated[
    str | None,
    typer.Option(
        metavar="SLIDE,...",
        help="Download these slides first, or `all` (camelyon16 and camelyon17 only).",
    ),
]
Bucket = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Download from this address. Default: the official one."),
]


def _add_data_set(name: str) -> None:
    """Add the subcommand that writes the cohort of a public data set."""

    @cohort.command(name, help=DATA_SET_HELP.format(name=name, folder=name.upper()))
    def write(
        *,
        folder: DataFolder,
        out: CohortFile = None,
        seed: Seed = 0,
        verify: Verify = False,
        partial: Partial = False,
        download: Download = None,
        bucket: Bucket = None,
    ) -> None:
        from parfocal.dataset.readers import make_cohort

        if out is None and download is None:
            raise typer.BadParameter("give --out, --download or both", param_hint="--out")
        if download is not None:
            written_folder(folder)
            _download(name, folder, download.split(","), bucket)
        if out is None:
            return
        made = make_cohort(name, folder, out, seed=seed, verify=verify, partial=partial)
        for note in made.notes:
            typer.echo(f"note: {note}")
        typer.echo(f"{made.summary}; wrote {out}")
        if made.missing:
            typer.echo(f"parfocal: {made.num_missing} missing: {', '.join(made.missing)}", err=True)
        sheet = f"parfocal inspect {quoted(out)} --picture sheet.html"
        finish(made.damaged, len(made.rows) + len(made.damaged), then=sheet)
        if made.missing and not partial:
            raise typer.Exit(1)


for _name in DATA_SETS:
    _add_data_set(_name)


def _download(name: str, folder: Path, slides: list[str], bucket: str | None) -> None:
    """Print the size of the download, then fetch it file by file."""
    from parfocal.dataset.readers.download import BUCKET, fetch, plan_download

    with wrong_usage(ValueError, prefix="--download: "):
        plan = plan_download(name, folder, slides, bucket or BUCKET)
    typer.echo(plan.summary)
    for remote in plan.files:
        fetch(remote)
        typer.echo(f"{remote.path}: {remote.size:,} bytes")
