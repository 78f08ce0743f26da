"""Print what failed, and end a subcommand."""

from collections.abc import Mapping

import typer

from parfocal.cli.next_step import say_next


def finish(
    failed: Mapping[str, str],
    total: int,
    *,
    unit: str = "slides",
    then: str | None = None,
    retry: str = "to retry what failed, run the same command again",
) -> None:
    """Print what failed and what to do next, and exit with code 1 if anything failed.

    Args:
        failed: reason by name.
        total: number of items, including those that succeeded.
        unit: what is counted, in the plural.
        then: what to do with the results; None to print nothing. If everything failed, nothing is
            printed either, because the reasons say what to do.
        retry: what to do about what failed.
    """
    report_failures(failed, total, unit=unit)
    if then is not None and len(failed) < total:
        say_next(f"{retry}; then {then}" if failed else then)
    if failed:
        raise typer.Exit(1)


def report_failures(failed: Mapping[str, str], total: int, *, unit: str = "slides") -> None:
    """Print what failed, grouped by reason.

    Args:
        failed: reason by name.
        total: number of items, including those that succeeded.
        unit: what is counted, in the plural.
    """
    if failed and total > 1:
        typer.echo(f"parfocal: {len(failed)} of {total} {unit} failed:", err=True)
    print_reasons(failed)


def print_reasons(failed: Mapping[str, str]) -> None:
    """Print why slides or other items failed, one line for each kind of reason.

    Args:
        failed: reason by name.
    """
    from parfocal.printable import printable
    from parfocal.slide.errors import group_failures

    for line in group_failures(failed):
        typer.echo(f"parfocal: {printable(line)}", err=True)
