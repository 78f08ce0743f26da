"""The parfocal program: it collects the subcommands and turns errors into one line.

A subcommand parses its arguments, makes one library call and prints. It imports the library inside
its function, so that `predict` does not load what only `train` needs.
"""

import _thread
import errno
import io
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, Protocol, runtime_checkable

import typer

from parfocal.cli.budgets import calibrate
from parfocal.cli.checks import ArgumentError
from parfocal.cli.cohorts import cohort
from parfocal.cli.command import Command
from parfocal.cli.comparison import compare
from parfocal.cli.datasets import reproduce
from parfocal.cli.encoders import encoders
from parfocal.cli.evaluation import audit, evaluate
from parfocal.cli.export import export
from parfocal.cli.extraction import extract
from parfocal.cli.hub import push, serve_encoder
from parfocal.cli.places import OutputPlace
from parfocal.cli.predictions import demo, predict
from parfocal.cli.probe import probe
from parfocal.cli.slides import features, inspect, synth
from parfocal.cli.training import recipes, train
from parfocal.cli.usage import UsageError, describe_usage_error
from parfocal.cli.view import report, view
from parfocal.cli.work import doctor, status
from parfocal.distribute.shards import ShardEndedError
from parfocal.distribute.stopping import EXIT_CODE, StoppedEarly, stop_on_signal
from parfocal.progress import ProgressHandler, erase_bars
from parfocal.threads import let_threads_sleep

RESUME = {
    "train": "the same command with --resume",
    **dict.fromkeys(
        ("inspect", "extract", "probe", "compare", "reproduce", "predict", "evaluate", "audit"),
        "the same command",
    ),
}
RENAMED_OPTIONS = {"--timed": "--timed-slides"}  # the old name still works, but is not in --help
TERMINATION_SIGNALS = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
MTIME_TOLERANCE_S = 0.1  # file systems record times coarsely
RETRY_INTERRUPT_S = 0.1

REPEATING_LOGGERS = ("parfocal.dataset.", "parfocal.features.header")


class RepeatedCohortMessages(logging.Filter):
    """Drops repeated messages about cohorts and tissue: `compare` reads them for every model."""

    def __init__(self) -> None:
        super().__init__()
        self._printed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to print a record."""
        if not record.name.startswith(REPEATING_LOGGERS):
            return True
        message = record.getMessage()
        is_new = message not in self._printed
        self._printed.add(message)
        return is_new


app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; print an error as one line, or with --debug as a traceback."""
    arguments = [_current_name(word) for word in sys.argv[1:] if word != "--debug"]
    place, started = OutputPlace(), time.time()
    let_threads_sleep()
    _print_any_character()
    try:
        with (
            _repeat_lost_interrupts(),
            _interrupt_on_termination(),
            stop_on_signal(),
            _remove_copies(),
        ):
            # Not standalone: then typer prints no usage and returns the exit code.
            code = app(
                arguments or ["--help"], prog_name="parfocal", obj=place, standalone_mode=False
            )
    except UsageError as error:
        _print_error(describe_usage_error(error, _command_of(arguments)))
        sys.exit(2)
    except ShardEndedError as ended:
        _print_error(str(ended))
        sys.exit(0)
    except StoppedEarly as stopped:
        _print_error(str(stopped))
        sys.exit(EXIT_CODE)
    except Exception as error:
        if len(arguments) < len(sys.argv) - 1:
            raise
        _print_error(_one_line(error))
        sys.exit(2 if isinstance(error, ArgumentError) else 1)
    if code == 130:  # after a KeyboardInterrupt
        _print_error(f"interrupted; {_describe_output(place, started)}.")
    sys.exit(code or 0)


def _print_any_character() -> None:
    """Print what the terminal cannot show, such as a file name that is not UTF-8, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_error(text: str) -> None:
    erase_bars()
    typer.echo(f"parfocal: {text}", err=True)


def _command_of(arguments: list[str]) -> str:
    """Return the command that is called, without its arguments."""
    program: Any = typer.main.get_command(app)
    if arguments and arguments[0] in program.commands:
        return f"parfocal {arguments[0]}"
    return "parfocal"


def _current_name(word: str) -> str:
    """Replace the old name of an option."""
    option, equals, value = word.partition("=")
    return f"{RENAMED_OPTIONS.get(option, option)}{equals}{value}"


@contextmanager
def _repeat_lost_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt again if Python dropped it while it finalized an object."""
    previous_hook = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.exc_type is KeyboardInterrupt:
            threading.Timer(RETRY_INTERRUPT_S, _thread.interrupt_main).start()
        else:
            previous_hook(dropped)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook


@contextmanager
def _interrupt_on_termination() -> Iterator[None]:
    """Make SIGTERM, as of `kill` and job schedulers, and SIGHUP do what Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    changed = []
    if threading.current_thread() is threading.main_thread():  # the only one that may do this
        for name in TERMINATION_SIGNALS:
            number = getattr(signal, name, None)
            # An ignored signal stays ignored: so `nohup` starts a command.
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, interrupt)
                changed.append(number)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _remove_copies() -> Iterator[None]:
    """Remove the copies of slides in --scratch at the end of a block."""
    try:
        yield
    finally:
        staging = sys.modules.get("parfocal.slide.staging")
        if staging is not None:
            staging.stage_slides(None)


def _describe_output(place: OutputPlace, started: float) -> str:
    """Describe what an interrupted command has written, and how to resume it."""
    out = place.out
    if out is None:
        return "nothing was written"
    files = out.rglob("*") if out.is_dir() else (out,)
    earliest = started - MTIME_TOLERANCE_S
    if not any(path.is_file() and path.stat().st_mtime >= earliest for path in files):
        return f"nothing was written to {out}"
    command = RESUME.get(place.command)
    return (
        f"finished results are in {out}{'' if command is None else f'; to resume, run {command}'}"
    )


def _one_line(error: Exception) -> str:
    """Return the message of an error as one line."""
    message = " ".join(str(error).split())
    if type(error).__module__.startswith("parfocal"):
        return message
    # HDF5 and safetensors report a full disk without an errno of their own.
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in message:
        place = getattr(error, "filename", None) or "the output folder"
        return f"{place}: the disk is full; free some space, or choose another disk with --out."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {_describe_os_error(error)}"
    if isinstance(error, ValueError | OSError):
        return message
    return f"unexpected {type(error).__name__}: {message} (run again with --debug for a traceback)."


def _describe_os_error(error: OSError) -> str:
    """Describe what is wrong with a path."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "is a file, but a folder is needed; choose another path."
    if isinstance(error, IsADirectoryError):
        return "is a folder, but a file is needed; give a file name."
    return f"{error.strerror}; check the path and its permissions."


@runtime_checkable
class _ProgramContext(Protocol):
    """The part of a click context that the callback below uses."""

    params: dict[str, Any]  # options that were given so far


def _print_version(context: _ProgramContext, requested: bool) -> bool:
    """Print the version; with --verbose, which is parsed first, also what is installed."""
    verbose = context.params.get("verbose", False)
    if not requested:
        if verbose:
            raise typer.BadParameter(
                "give --version with it; for the traceback of an error, use --debug",
                param_hint="--verbose",
            )
        return requested
    from importlib.metadata import version  # takes a tenth of the time of --help

    typer.echo(f"parfocal {version('parfocal')}")
    if verbose:
        from parfocal.doctor import installation

        for check in installation():
            typer.echo(f"{check.topic:8} {check.name}: {check.text}")
    raise typer.Exit


@app.callback()
def options(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, help="Print the version and exit."),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            is_eager=True,  # parsed before --version
            help="With --version: also print the versions of packages and readers, and devices.",
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Print the traceback of an error. Works at any position."),
    ] = False,
) -> None:
    """Classify whole-slide images by learning where to zoom.

    Try `parfocal demo` first. For your own slides: check them with `inspect`, write a CSV with
    columns slide_id, path and label, then run `train`, `evaluate` and `predict`.
    """
    handler = ProgressHandler()
    handler.addFilter(RepeatedCohortMessages())
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    level = logging.DEBUG if "--debug" in sys.argv else logging.INFO  # with all tracebacks
    logging.getLogger("parfocal").setLevel(level)
    # Without a home, it warns that its cache is temporary.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # What it logs of a damaged file comes as an error of ours, too.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


for command in (
    demo,
    inspect,
    synth,
    extract,
    features,
    recipes,
    encoders,
    train,
    calibrate,
    evaluate,
    probe,
    compare,
    reproduce,
    audit,
    predict,
    status,
    doctor,
    view,
    report,
    export,
    push,
    serve_encoder,
):
    app.command(cls=Command)(command)
app.add_typer(cohort, name="cohort")
