"""Arguments shared by several subcommands."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from parfocal.cli.checks import (
    ArgumentError,
    check_budget,
    check_device,
    check_magnifications_or_range,
    check_shard,
    checked,
    finite_number,
    parse_magnifications,
    plausible_mpp,
    wrong_usage,
)
from parfocal.cli.places import CommandContext, output_folder, unfinished_folder, written_folder
from parfocal.files import path_exists

Part = Literal["train", "val", "test", "all"]
TissueMethodName = Literal["otsu", "gray", "all"]
LoggerName = Literal["csv", "tensorboard", "mlflow", "wandb"]


def existing_tissue(context: CommandContext, path: Path | None) -> Path | None:
    """Check that tissue files exist, before any slide is opened.

    Raises:
        FileNotFoundError: they do not, perhaps because the name of a method was given.
    """
    if path is not None and not path_exists(path):
        methods = ", ".join(get_args(TissueMethodName))
        advice = (
            f"to choose how tissue is found, use --tissue-method ({methods})"
            if context.info_name == "inspect"
            else "correct the path"
        )
        raise FileNotFoundError(f"--tissue {path}: no such file or folder; {advice}.")
    return path


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
        ArgumentError: the name is not that of a repository of the Hub.
        HubError: it cannot be downloaded.
    """
    if not str(path).startswith(HUB_PREFIX):
        return path
    from parfocal.hub.fetch import fetch_run
    from parfocal.hub.repository import HubError, parse_repository

    with wrong_usage(HubError):
        parse_repository(str(path))
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
        help="Folder on a local disk. Slides are copied to it before they are used, and the "
        "copies are removed afterward; remote slides that cannot be read in place are downloaded "
        "to it.",
    ),
]
ScratchSize = Annotated[
    float | None,
    typer.Option(
        "--scratch-gb",
        min=0.001,
        metavar="GB",
        help="With --scratch: maximum size of the folder, in GB. Default: 100.",
        callback=finite_number,
    ),
]
AllowRedirect = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-redirect",
        metavar="HOST[:PORT]",
        help="Host that slide servers may redirect to, with its port if it is not the default one. "
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
        callback=checked(plausible_mpp, prefix="mpp="),
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
MAGNIFICATIONS_HELP = "Magnifications from low to high, such as 2.5,5,10."
MAGNIFICATIONS = typer.Option(
    metavar="M,M,...",
    help=MAGNIFICATIONS_HELP,
    callback=checked(parse_magnifications, prefix="magnifications: "),
)
MAGNIFICATIONS_OR_RANGE = typer.Option(
    metavar="M,M,...",
    help=f"{MAGNIFICATIONS_HELP} Model jsma also takes a range, such as 2.5-20, and uses the "
    "magnifications in it that each slide has.",
    callback=checked(check_magnifications_or_range, prefix="magnifications: "),
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
        callback=checked(check_budget, prefix="budget "),
    ),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option("--skip-unreadable", help="Continue without the slides that cannot be read."),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto, cpu, cuda or cuda:N.",
        callback=checked(check_device, prefix="device "),
    ),
]
ShardText = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Process only part I of N of the work, counted from 1, such as 3/8. Default: all "
        "commands that write to the same folder share the work.",
        callback=checked(check_shard, prefix="--shard "),
    ),
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Continue if more than 5% of the slides are missing.")
]
