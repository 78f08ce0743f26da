"""Arguments shared by several subcommands."""

import errno
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, get_args, runtime_checkable

import typer

from parfocal.files import READ_ONLY, OutputError, part_path, path_exists, refuse_binary_file

Part = Literal["train", "val", "test", "all"]
TissueMethodName = Literal["otsu", "gray", "all"]
LoggerName = Literal["csv", "tensorboard", "mlflow", "wandb"]

PAGE_SUFFIXES = (".html", ".htm")
# A folder with one of these is refused, because its name is probably meant for a file.
FILE_SUFFIXES = (
    *(".csv", ".tsv", ".xlsx", ".json", ".jsonl", ".yaml", ".yml", ".txt", ".html", ".htm", ".pdf"),
    *(".png", ".jpg", ".jpeg", ".svg", ".tif", ".tiff", ".svs", ".h5", ".pt", ".pth", ".ckpt"),
    *(".safetensors", ".geojson", ".zip"),
)


class ArgumentError(ValueError):
    """An argument that cannot be used; the message says what to give instead."""


@dataclass
class OutputPlace:
    """Which command is running and where it writes, for the message after Ctrl-C."""

    command: str = ""
    out: Path | None = None


@runtime_checkable
class CommandContext(Protocol):
    """The part of a click context that the callbacks below use."""

    info_name: str | None
    obj: OutputPlace | None  # None when the app is called without `main`


def finite_number(value: float | None) -> float | None:
    """Check that a number is finite.

    Raises:
        typer.BadParameter: it is not.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is invalid; use a finite number")
    return value


def output_folder(context: CommandContext, path: Path) -> Path:
    """Check that a folder can be written, before any work is done.

    Raises:
        OutputError: the folder does not exist, and its name is that of a file, as `report.html`.
        OSError: a file is in the way, or writing is not permitted.
    """
    if path.suffix.lower() in FILE_SUFFIXES and not path.exists():
        raise OutputError(
            f"{path}: this is the name of a file, and results are written to a folder; name a "
            "folder."
        )
    existing = _nearest_folder(path)
    _require_writable(existing)
    if context.obj is not None:
        context.obj.command, context.obj.out = context.info_name or "", path
    _use_for_temporary_files(existing)
    return path


def unfinished_folder(context: CommandContext, path: Path) -> Path:
    """Check that a folder can be written, unless it may be finished; see `output_folder`.

    Raises:
        OutputError: see `output_folder`.
        OSError: a file is in the way, or writing is not permitted and the folder is empty.
    """
    try:
        return output_folder(context, path)
    except OSError as error:
        if error.errno not in READ_ONLY or not path.is_dir() or not any(path.iterdir()):
            raise
        return path  # the command says what is left to do, if anything is


def written_folder(path: Path | None) -> Path | None:
    """Check that a folder for something besides the results can be written, if one is given.

    Raises:
        OSError: a file is in the way, or writing is not permitted.
    """
    if path is not None:
        _require_writable(_nearest_folder(path))
    return path


def _nearest_folder(path: Path) -> Path:
    """Return a folder, or the nearest folder above it that exists.

    Raises:
        FileExistsError: a file is in the way.
    """
    existing = next(place for place in (path, *path.absolute().parents) if path_exists(place))
    if not existing.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(existing))
    return existing


def _require_writable(folder: Path) -> None:
    """Check that files can be created in a folder, by creating one.

    Permissions alone do not tell: a file system may be read-only or full, root may have no rights
    on a network file system, and Windows has access lists.

    Raises:
        OSError: they cannot; it names the folder.
    """
    part = part_path(folder / "any")
    try:
        part.touch()
        part.unlink()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(folder)) from error


def _use_for_temporary_files(folder: Path) -> None:
    """Let libraries write temporary files to a folder if the system has no other place for them.

    In a container whose file system is read-only, the output folder may be the only one.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = str(folder)


def output_file(*suffixes: str) -> Callable[[CommandContext, Path | None], Path | None]:
    """Return a callback that checks that a file can be written, before any work is done.

    Args:
        suffixes: the extensions that the file may have.
    """

    def check(context: CommandContext, path: Path | None) -> Path | None:
        if path is not None:
            _check_output_file(context, path, suffixes)
        return path

    return check


def output_page(context: CommandContext, path: Path) -> Path:
    """Check that an HTML page can be written, before any work is done.

    Raises:
        OutputError: the path has another extension, or is a file that is not HTML and would be
            lost.
        OSError: a folder is in the way, or writing is not permitted.
    """
    _check_output_file(context, path, PAGE_SUFFIXES)
    start = path.read_bytes()[:1000].lstrip() if path.is_file() else b""
    if start and not start.startswith(b"<"):
        raise OutputError(f"{path}: the file exists and is not a page. Choose another --out.")
    return path


def optional(
    check: Callable[[CommandContext, Path], Path],
) -> Callable[[CommandContext, Path | None], Path | None]:
    """Return a callback that checks a path if one is given.

    Args:
        check: callback that checks a path.
    """

    def check_given(context: CommandContext, path: Path | None) -> Path | None:
        return None if path is None else check(context, path)

    return check_given


def _check_output_file(context: CommandContext, path: Path, suffixes: Sequence[str]) -> None:
    """Check that a file can be written.

    Raises:
        OutputError: the path has another extension, or is a file that is not text, such as a slide,
            and would be lost.
        OSError: a folder is in the way, or writing is not permitted.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.suffix.lower() not in suffixes:
        raise OutputError(
            f"{path}: this kind of file cannot be written here; give a name that ends in "
            f"{' or '.join(suffixes)}."
        )
    if path.is_file():
        refuse_binary_file(path)
    output_folder(context, path.parent)
    if context.obj is not None:
        context.obj.out = path


def existing_tissue(context: CommandContext, path: Path | None) -> Path | None:
    """Check that tissue files exist, before any slide is opened.

    Raises:
        ArgumentError: they do not, perhaps because the name of a method was given.
    """
    if path is not None and not path_exists(path):
        methods = ", ".join(get_args(TissueMethodName))
        advice = (
            f"to choose how tissue is found, use --tissue-method ({methods})"
            if context.info_name == "inspect"
            else "correct the path"
        )
        raise ArgumentError(f"--tissue {path}: no such file or folder; {advice}.")
    return path


def existing_shard(text: str | None) -> str | None:
    """Check that a shard exists, before any work is done.

    Raises:
        typer.BadParameter: it does not.
    """
    if text is not None:
        from parfocal.distribute.shards import ShardError, parse_shard

        try:
            parse_shard(text)
        except ShardError as error:
            raise typer.BadParameter(str(error).removeprefix("--shard ")) from None
    return text


Cohort = Annotated[
    Path,
    typer.Argument(
        metavar="COHORT",
        help="CSV with columns slide_id, path and label. Relative paths start at its folder.",
    ),
]


HUB_PREFIX = "hf:"


def local_run(path: Path) -> Path:
    """Return the folder of a run; one named hf:owner/name is downloaded from the Hub.

    Every argument that takes a run is resolved here.

    Raises:
        HubError: it cannot be had.
    """
    if not str(path).startswith(HUB_PREFIX):
        return path
    from parfocal.hub.fetch import fetch_run

    return fetch_run(str(path))


def local_runs(paths: list[Path]) -> list[Path]:
    """Return paths, with the folders of the runs among them that are named hf:owner/name."""
    return [local_run(path) for path in paths]


def local_run_texts(texts: list[str]) -> list[str]:
    """Return paths and URLs, with the folders of the runs among them; see `local_runs`."""
    return [str(local_run(Path(text))) if text.startswith(HUB_PREFIX) else text for text in texts]


Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Run folder written by `parfocal train`, or hf:OWNER/NAME for a model of the Hub.",
        callback=local_run,
    ),
]


def local_writable_run(path: Path) -> Path:
    """Return the folder of a run that is about to be changed.

    Raises:
        ArgumentError: the run is one of the Hub, of which other commands use the same copy.
        OSError: the folder cannot be written.
    """
    if str(path).startswith("hf:"):
        raise ArgumentError(f"{path}: a run of the Hub is not changed; copy it to a folder first.")
    written_folder(path)
    return path


WritableRun = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Run folder written by `parfocal train`; the result is added to it.",
        callback=local_writable_run,
    ),
]
Host = Annotated[
    str,
    typer.Option(
        metavar="HOST",
        help="Address to listen on; 0.0.0.0 accepts connections from other computers.",
    ),
]
Port = Annotated[
    int, typer.Option(min=0, max=65535, metavar="PORT", help="Port; 0 for any free one.")
]
EncoderAt = Annotated[
    str | None,
    typer.Option(
        "--encoder-at",
        metavar="PLACE",
        help="Where to find the run's encoder now: a service, such as http://HOST:PORT/; a file "
        "with its weights; or `here` to load it by its name. For one magnification: 10=PLACE.",
    ),
]
SLIDES_HELP = "Slide files or URLs, such as https://HOST/A.svs or s3://BUCKET/A.svs."
Slides = Annotated[list[str], typer.Argument(metavar="SLIDE...", help=SLIDES_HELP)]
RemoteCache = Annotated[
    Path | None,
    typer.Option(
        "--remote-cache",
        metavar="DIR",
        help="Folder that caches the parts of remote slides that were read, at most 10 GiB.",
        callback=written_folder,
    ),
]
Scratch = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder on a local disk. Slides are copied to it ahead of their use, and removed "
        "after it; remote slides that cannot be read in place are downloaded to it.",
    ),
]
ScratchSize = Annotated[
    float | None,
    typer.Option(
        "--scratch-gb",
        min=0.001,
        metavar="GB",
        help="With --scratch: how much it may hold, in GB. Default: 100.",
        callback=finite_number,
    ),
]
AllowRedirect = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-redirect",
        metavar="HOST[:PORT]",
        help="Host that slide servers may redirect to, with its port if it is not the usual one. "
        "Repeatable.",
    ),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Output folder.", callback=output_folder)]
ResumableOut = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Output folder, new or from an interrupted run of this command.",
        callback=output_folder,
    ),
]
FinishedOut = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Output folder, new or from an interrupted run of this command.",
        callback=unfinished_folder,
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option(
        metavar="MPP",
        help="Microns per pixel at level 0, if the file records none or a wrong one.",
        callback=finite_number,
    ),
]
Logger = Annotated[
    LoggerName | None,
    typer.Option(
        metavar="NAME",
        help="Where to write the metrics of each epoch, besides metrics.csv: tensorboard, mlflow "
        "or wandb, which must be installed; nothing is uploaded. Default: csv, nowhere else.",
    ),
]
MAGNIFICATIONS_HELP = "Magnifications from low to high, such as 1.25,2.5,10."
MAGNIFICATIONS = typer.Option(metavar="M,M,...", help=MAGNIFICATIONS_HELP)
MAGNIFICATIONS_OR_RANGE = typer.Option(
    metavar="M,M,...",
    help=f"{MAGNIFICATIONS_HELP} Model jsma also takes a range, such as 2.5-20, and uses the "
    "magnifications in it that each slide has.",
)
Features = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|M=DIR,...",
        help="Folder of features by parfocal, TRIDENT, CLAM, STAMP, slide2vec or ZoomMIL, "
        "or one per magnification: 2.5=DIR,10=DIR. Default: read the slide files.",
    ),
]
External = Annotated[
    bool,
    typer.Option(
        "--external",
        help="COHORT is not the training cohort: a slide_id in both is not the same slide.",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder that caches the features of visited patches.",
        callback=written_folder,
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="model.KEY=VALUE",
        help="Override a model setting of the run, such as model.k=10. Repeatable.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set one value, such as train.patience=5. Repeatable."
    ),
]
NamedOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="[NAME:]KEY=VALUE",
        help="Set one value for all models, or for NAME only. Repeatable.",
    ),
]
Epochs = Annotated[int | None, typer.Option(min=1, metavar="N", help="Maximum number of epochs.")]
TimedSlides = Annotated[
    int,
    typer.Option(
        "--timed-slides",
        min=0,
        metavar="N",
        help="Number of test slides to time from file to prediction.",
    ),
]
TissueFiles = Annotated[
    Path | None,
    typer.Option(
        "--tissue",
        metavar="PATH",
        help="Tissue to use instead of finding it: a GeoJSON file or mask image of the slide, a "
        "folder of such files named after the slides, or a CSV with a column tissue.",
        callback=existing_tissue,
    ),
]
TissueMethod = Annotated[
    TissueMethodName,
    typer.Option(
        "--tissue-method",
        metavar="METHOD",
        help="How to find tissue: otsu (saturation), gray (not gray) or all (the whole image).",
    ),
]
ONE_ENCODER = "a name of `parfocal encoders`, or timm:NAME."
ENCODERS = "a name of `parfocal encoders`, timm:NAME, or one per magnification: 1.25=NAME,10=NAME."
EncoderName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Patch encoder: {ENCODERS} To load its weights from a file, add "
        "`--set encoder.weights=FILE` (for one magnification, `encoder.weights=10=FILE`).",
    ),
]
Again = Annotated[
    bool,
    typer.Option("--again", help="Also process slides that an earlier run has finished."),
]
BudgetText = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="BUDGET",
        help="How much of each slide to visit: patches=100, share=5%, seconds=2, macs=50G; or "
        "settled, to stop when the answer has settled (see `parfocal calibrate`). Default: the "
        "number of patches of the model.",
    ),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Continue without the slides that cannot be read."),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")]
ShardText = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Process only part I of N of the work, counted from 1, such as 3/8. Default: all "
        "commands that write to the same folder share the work.",
        callback=existing_shard,
    ),
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Continue if more than 5% of the slides are missing.")
]
