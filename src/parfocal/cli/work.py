"""Subcommands about running commands: status, doctor."""

import json
from pathlib import Path
from typing import Annotated

import typer

from parfocal.cli.checks import checked
from parfocal.cli.failures import finish
from parfocal.cli.next_step import after_status, say_next
from parfocal.cli.workers import check_ray


def status(
    *,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Output folder (or .jsonl file) of a command.")
    ],
    every: Annotated[
        bool, typer.Option("--all", help="Also list the items that are done or waiting.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Show the progress of the commands that write to a folder, on any machine.

    Lists what is running (where, since when) and what failed (why), the rate, and the time left.

    Example: `parfocal status features`
    """
    from parfocal.distribute.status import read_status, to_json
    from parfocal.printable import printable

    found = read_status(out)
    if as_json:
        typer.echo(to_json(found))
        return
    for each in found:
        for line in each.lines(every=every):
            typer.echo(printable(line))
    say_next(after_status(found))


def doctor(
    *,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DIR]...", help="Output folders to check as well."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Address of a Ray cluster to check.",
            callback=checked(check_ray),
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Check the installation: versions, devices, codecs, folders, and one tiny slide.

    Nothing is downloaded. The exit code is 1 if something does not work.

    Example: `parfocal doctor`
    """
    from parfocal.doctor import diagnose, ray_check, to_json

    checks = []
    for check in diagnose(folders or ()):
        checks.append(check)
        if not as_json:
            typer.echo(f"{check.state:6}  {check.topic:8} {check.name}: {check.text}")
    if ray is not None:
        checks.append(ray_check(ray))
        if not as_json:
            typer.echo(f"{checks[-1].state:6}  ray      {ray}: {checks[-1].text}")
    if as_json:
        typer.echo(json.dumps(to_json(checks), indent=1))
    failed = {f"{c.topic} {c.name}": c.text for c in checks if c.state == "failed"}
    then = None if as_json or failed else "parfocal demo --quick"
    finish(failed, len(checks), unit="checks", then=then)
