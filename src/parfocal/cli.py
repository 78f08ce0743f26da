"""The command line: a subcommand parses, makes one library call and prints.

Each imports what it calls inside itself, so that `predict` does not wait for what `train` loads.
"""

# ruff: noqa: PLC0415

import errno
import json
import logging
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

Part = Literal["train", "val", "test", "all"]

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
    try:
        app(arguments, prog_name="parfocal")
    except SystemExit as stop:
        if stop.code == 130:  # typer's, for Ctrl-C
            typer.echo("parfocal: interrupted; what was finished is kept.", err=True)
        raise
    except Exception as error:
        if len(arguments) < len(sys.argv) - 1:
            raise
        typer.echo(f"parfocal: {_one_line(error)}", err=True)
        sys.exit(1)


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
        return f"{error.filename}: {error.strerror}."
    if isinstance(error, ValueError | OSError):
        return message
    return f"unexpected {type(error).__name__}: {message} (run again with --debug to see where)."


def _finish(failed: Mapping[str, str], of: int) -> None:
    """List the slides that failed, and tell the shell."""
    if failed and of > 1:
        typer.echo(f"parfocal: {len(failed)} of {of} slides failed:", err=True)
    for slide, reason in failed.items():
        # A reason names the file; in a cohort the slide may have another name.
        named = Path(slide).stem in reason
        typer.echo(f"parfocal: {reason if named else f'{slide}: {reason}'}", err=True)
    if failed:
        raise typer.Exit(1)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"parfocal {version('parfocal')}")
        raise typer.Exit
    return wanted


def _magnifications(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part.strip().removesuffix("x")) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not like 1.25,2.5,10", param_hint="--magnifications"
        ) from None


Cohort = Annotated[
    Path,
    typer.Argument(
        metavar="COHORT", help="CSV with columns slide_id, path and label; paths relative to it."
    ),
]
Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run that `parfocal train` wrote.")
]
Slides = Annotated[list[Path], typer.Argument(metavar="SLIDE...", help="Slide files.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to.")]
Mpp = Annotated[
    float | None,
    typer.Option(help="Microns per pixel at level 0, for files that do not say or say wrongly."),
]
MAGNIFICATIONS = typer.Option(metavar="M,M,...", help="Lowest first, as 1.25,2.5,10.")
Features = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Stored features; else slides are read as the model asks."),
]
Cache = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keep features here as slides are visited.")
]
ENCODERS = "efficientnet-lite0, resnet50-layer3 or timm:NAME."
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]


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


@app.command()
def demo(
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(min=0, help="Of the slides and the training.")] = 0,
) -> None:
    """Paint slides, train on them, evaluate and predict: the whole road, in minutes.

    Example: `parfocal demo`, then look into demo-out.
    """
    from parfocal.demo import run_demo

    for line in run_demo(out, seed=seed):
        typer.echo(line)


@app.command()
def inspect(
    *,
    slides: Slides,
    mpp: Mpp = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a list.")] = False,
) -> None:
    """Tell what slide files hold, and whether they can be used.

    Example: `parfocal inspect slides/*.svs`
    """
    from parfocal.slide.errors import SlideError
    from parfocal.slide.inspect import inspect as inspect_slide

    reports: list[dict[str, object]] = []
    failed: dict[str, str] = {}
    for path in slides:
        try:
            report = inspect_slide(path, mpp=mpp)
        except SlideError as error:
            failed[str(path)] = str(error)
            continue
        reports.append(report.to_json())
        if not as_json:
            typer.echo(report.lines())
    if as_json:
        typer.echo(json.dumps(reports, indent=1))
    _finish(failed, len(slides))


@app.command()
def synth(
    *,
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A new folder; the table is OUT/cohort.csv.")
    ],
    slides: Annotated[int, typer.Option(min=2, help="How many.")],
    seed: Annotated[int, typer.Option(min=0, help="The same gives the same slides.")],
    size: Annotated[int, typer.Option(metavar="PX", help="Side of a slide.")] = 5120,
    mpp: Annotated[float, typer.Option(help="Microns per pixel: 1 is 10x, 0.5 is 20x.")] = 1.0,
    lesions: Annotated[int | None, typer.Option(min=1, help="On each slide of a tumor.")] = None,
    lesion_um: Annotated[
        float | None, typer.Option(min=1, help="How wide a lesion is at most, in microns.")
    ] = None,
    tiles: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Real tiles for texture, in one folder a class."),
    ] = None,
    normal_class: Annotated[
        str | None, typer.Option(metavar="NAME", help="Folder of normal tissue among the tiles.")
    ] = None,
    lesion_class: Annotated[
        str | None, typer.Option(metavar="NAME", help="Folder of lesions among the tiles.")
    ] = None,
) -> None:
    """Paint slides to practise on, with lesions that show only when sharp.

    Example: `parfocal synth painted --slides 40 --seed 0`
    """
    from parfocal.slide.synthetic import default_painting, paint_cohort

    painting = default_painting(
        tiles,
        lesions=lesions,
        lesion_um=lesion_um,
        normal_class=normal_class,
        lesion_class=lesion_class,
    )
    cohort = paint_cohort(
        out, slides=slides, seed=seed, size=size, mpp=mpp, tiles=tiles, painting=painting
    )
    typer.echo(f"{slides} slides; the table is {cohort}")


@app.command()
def extract(
    *,
    cohort: Annotated[
        Path,
        typer.Argument(
            metavar="COHORT", help="CSV with columns slide_id and path; paths relative to it."
        ),
    ],
    out: Out,
    magnifications: Annotated[str, MAGNIFICATIONS],
    encoder: Annotated[str, typer.Option(metavar="NAME", help=ENCODERS)] = "efficientnet-lite0",
    patch_size: Annotated[int, typer.Option(min=16, help="Side of a patch in pixels.")] = 256,
    children: Annotated[
        Literal["tissue", "all"], typer.Option(help="Sharper patches: with any tissue, or all.")
    ] = "tissue",
    device: Device = "auto",
) -> None:
    """Store the features of every patch, one HDF5 file a slide; goes on where it stopped.

    Not needed for training, but makes many trainings on the same slides faster.

    Example: `parfocal extract cohort.csv --out features --magnifications 1.25,2.5,10`
    """
    from parfocal.dataset import read_slides
    from parfocal.features.encoder import load_encoder
    from parfocal.features.extract import extract_cohort
    from parfocal.features.header import SlideSettings

    slides = read_slides(cohort)
    settings = SlideSettings(_magnifications(magnifications), patch_size, children=children)
    loaded = load_encoder(encoder, device=device)
    result = extract_cohort(slides, out, encoder=loaded, settings=settings)
    typer.echo(f"{len(result.done)} slides extracted, {len(result.skipped)} were there already")
    _finish(result.failed, len(slides))


@app.command()
def train(
    *,
    cohort: Cohort,
    out: Out,
    model: Annotated[
        str, typer.Option(metavar="RECIPE", help="zoommil, zoommil-eff, mean, ..., or a YAML file.")
    ] = "zoommil",
    features: Features = None,
    encoder: Annotated[str | None, typer.Option(metavar="NAME", help=ENCODERS)] = None,
    magnifications: Annotated[str | None, MAGNIFICATIONS] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Train so many models.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the split and every draw.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that read slides.")] = None,
    cache: Cache = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML with settings over the recipe's.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, as train.patience=5."),
    ] = None,
) -> None:
    """Train a model on labelled slides; the run folder is all that prediction needs.

    Slides are read as the model zooms, or `--features` are used. The settings come from the
    recipe, then `--config`, then `--set`, then the other options.

    Example: `parfocal train cohort.csv --model zoommil --out run --cache cache`
    """
    from parfocal.dataset import read_cohort
    from parfocal.settings import load_settings
    from parfocal.train import train as train_model

    flags = {
        "encoder.name": encoder,
        "slide.magnifications": None if magnifications is None else _magnifications(magnifications),
        "train.epochs": epochs,
        "train.folds": folds,
        "train.seed": seed,
    }
    settings = load_settings(model, config, overrides or (), flags)
    slides = read_cohort(cohort, labels=settings.train.labels)
    summary = train_model(
        slides,
        settings,
        out,
        features=features,
        cache=cache,
        device=device,
        workers=workers,
        resume=resume,
    )
    runs = summary.folds or (summary,)
    what = (
        f"{len(runs)} folds, mean"
        if summary.best_epoch is None
        else f"epoch {summary.best_epoch + 1} was best,"  # from 1, as in the log of the epochs
    )
    also = f", likewise {', '.join(fold.out.name for fold in runs[1:])}" if summary.folds else ""
    typer.echo(
        f"{out}: {what} weighted F1 {summary.val_weighted_f1:.3f} on the validation slides; now "
        f"`parfocal evaluate {runs[0].out} {cohort} --out DIR`{also}"
    )
    _finish(summary.failed, len(slides.slides))


@app.command()
def evaluate(
    *,
    run: Run,
    cohort: Cohort,
    out: Out,
    split: Annotated[Part, typer.Option(help="Which of the run's slides.")] = "test",
    features: Features = None,
    cache: Cache = None,
    device: Device = "auto",
    training_slides: Annotated[
        bool, typer.Option("--allow-training-slides", help="Score slides it has learned from.")
    ] = False,
) -> None:
    """Tell how good a trained model is on slides it has not seen.

    DIR gets metrics.json, with 95% intervals, and predictions.csv.

    Example: `parfocal evaluate run cohort.csv --out evaluation`
    """
    from parfocal.evaluate import evaluate as evaluate_model

    result = evaluate_model(
        run,
        cohort,
        out,
        split=split,
        features=features,
        cache=cache,
        device=device,
        allow_training_slides=training_slides,
    )
    typer.echo(f"{result.summary}; see {out / 'metrics.json'}")
    failed = {failure.slide.slide_id: failure.reason for failure in result.failed}
    _finish(failed, len(failed) + len(result.results))


@app.command()
def predict(
    *,
    run: Run,
    slides: Slides,
    out: Out,
    mpp: Mpp = None,
    device: Device = "auto",
) -> None:
    """Classify slides, reading sharp pixels only where the model zooms in.

    Of each slide DIR gets a JSON and a PNG that shows where the model looked, and
    predictions.csv has a row for each.

    Example: `parfocal predict run slides/*.svs --out predictions`
    """
    from parfocal.models.checkpoint import Checkpoint
    from parfocal.predict import FailedSlide, predict_slides

    failed: dict[str, str] = {}
    for slide in predict_slides(slides, Checkpoint.load(run), out, mpp=mpp, device=device):
        if isinstance(slide, FailedSlide):
            failed[str(slide.path)] = slide.reason
        else:
            typer.echo(slide.line)
    if len(failed) < len(slides):
        typer.echo(f"a picture and a JSON of each slide, and predictions.csv: see {out}", err=True)
    _finish(failed, len(slides))


if __name__ == "__main__":
    main()
