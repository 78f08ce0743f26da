"""The subcommand that writes predictions for other tools: export."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from parfocal.cli.arguments import Out
from parfocal.cli.next_step import say_next


def export(
    *,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="EVALUATION...",
            help="Folders that `parfocal evaluate` wrote, or folders that contain them.",
        ),
    ],
    out: Out,
    tool: Annotated[
        Literal["stamp"],
        typer.Option(
            "--to", metavar="TOOL", help="stamp, which writes patient-preds.csv for its statistics."
        ),
    ] = "stamp",
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Target to write, if the model has several."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the target in the table (ground_truth_label of STAMP)."
        ),
    ] = None,
) -> None:
    """Write predictions of evaluations for the statistics of another tool, one row per patient.

    With several evaluations, such as those of folds, the tables are in split-0, split-1 and so on.

    Example: `parfocal export evaluation --name isMSIH --out stamp`
    """
    from parfocal.explain.stamp import write_stamp_tables

    assert tool == "stamp"
    for path in write_stamp_tables(paths, out, target=target, name=name):
        typer.echo(f"wrote {path}")
    say_next("give these files to the statistics of STAMP (pred_csvs in its configuration)")
