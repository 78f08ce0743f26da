"""The command line: a subcommand parses, makes one library call and prints.

Each imports what it calls inside itself, so that `predict` does not wait for what `train` loads.
"""

import _thread
import errno
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated

import typer

from parfocal.cli.arguments import Writing
from parfocal.cli.datasets import cohort, reproduce
from parfocal.cli.models import audit, compare, evaluate, recipes, train
from parfocal.cli.predictions import demo, predict
from parfocal.cli.slides import extract, inspect, synth
from parfocal.cli.view import report, view

GOES_ON = {
    "train": "the same command with --resume",
    **dict.fromkeys(("extract", "compare", "reproduce"), "the same command"),
}
CLOCK_S = 0.1  # a file system may have a coarser clock

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; an error is one line, and a traceback with --debug."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    writing, started = Writing(), time.time()
    try:
        with _ctrl_c_heard():
            app(arguments, prog_name="parfocal", obj=writing)
    except SystemExit as stop:
        if stop.code == 130:  # typer's, for Ctrl-C
            typer.echo(f"parfocal: interrupted; {_left_by(writing, started)}.", err=True)
        raise
    except Exception as error:
        if len(arguments) < len(sys.argv) - 1:
            raise
        typer.echo(f"parfocal: {_one_line(error)}", err=True)
        sys.exit(1)


@contextmanager
def _ctrl_c_heard() -> Iterator[None]:
    """Repeat a Ctrl-C that came while Python finalized an object, and was dropped there."""
    usual = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.exc_type is KeyboardInterrupt:
            threading.Timer(CLOCK_S, _thread.interrupt_main).start()
        else:
            usual(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = usual


def _left_by(writing: Writing, started: float) -> str:
    """Say what an interrupted command has written, and how to go on."""
    out = writing.out
    if out is None:
        return "nothing was written"
    written = out.rglob("*") if out.is_dir() else (out,)
    if not any(path.is_file() and path.stat().st_mtime >= started - CLOCK_S for path in written):
        return f"nothing was written to {out}"
    how = GOES_ON.get(writing.command)
    return f"what was finished is in {out}{'' if how is None else f'; {how} goes on from there'}"


def _one_line(error: Exception) -> str:
    """Say what went wrong."""
    message = " ".join(str(error).split())
    if type(error).__module__.startswith("parfocal"):
        return message
    # HDF5 and safetensors report a full disk without an errno of their own.
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in message:
        place = getattr(error, "filename", None) or "the folder written to"
        return f"{place}: the disk is full; free some space, or write elsewhere with --out."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {_of_place(error)}"
    if isinstance(error, ValueError | OSError):
        return message
    return f"unexpected {type(error).__name__}: {message} (run again with --debug to see where)."


def _of_place(error: OSError) -> str:
    """Say what is wrong with a path."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file, where a folder is to be; write elsewhere."
    if isinstance(error, IsADirectoryError):
        return "a folder, where a file is to be; give a file's name."
    return f"{error.strerror}; check the path, and its rights."


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"parfocal {version('parfocal')}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; goes anywhere.")
    ] = False,
) -> None:
    """Classify whole-slide images by learning where to zoom.

    `parfocal demo` shows the whole road in minutes. With slides of your own: `inspect` them, write
    a CSV of slide_id, path and label, then `train`, `evaluate` and `predict`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("parfocal").setLevel(logging.INFO)


for command in (
    demo,
    inspect,
    synth,
    cohort,
    extract,
    recipes,
    train,
    evaluate,
    compare,
    reproduce,
    audit,
    predict,
    view,
    report,
):
    app.command()(command)
