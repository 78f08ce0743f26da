"""Subcommands that train: recipes, train."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parfocal.cli.arguments import (
    MAGNIFICATIONS_OR_RANGE,
    AllowRedirect,
    Cache,
    Cohort,
    Device,
    EncoderName,
    Epochs,
    Features,
    Logger,
    Out,
    Overrides,
    RemoteCache,
    Scratch,
    ScratchSize,
    ShardText,
    SkipUnreadable,
)
from parfocal.cli.checks import ArgumentError, checked, parse_magnifications
from parfocal.cli.decisions import Temperature, ThresholdText
from parfocal.cli.encoders import TrustRemoteCode
from parfocal.cli.failures import print_reasons
from parfocal.cli.next_step import after_train, say_next
from parfocal.cli.parsing import (
    parse_distribution,
    parse_features,
    refuse_unknown_encoder,
    remote_access,
    with_local_runs,
    wrong_settings,
)
from parfocal.cli.submit import (
    Array,
    JobOptions,
    Partition,
    Sbatch,
    Submit,
    TimeLimit,
    Yes,
    gpus_of_devices,
    submit_command,
)
from parfocal.cli.tasks import Event, Target, TaskName, Time, task_flags
from parfocal.cli.units import Covariates, Fusion, Per, parse_covariates
from parfocal.cli.workers import Devices, Gpus, GpusPerWorker, Ray, Threads, Workers, worker_engine

if TYPE_CHECKING:
    from parfocal.features.folder import FeatureFolder, FeatureSlide


# Of the recipes that zoom, the one that learns where to from few slides: docs/benchmarks.md.
DEFAULT_RECIPE = "zoommil-hindsight"


def recipes() -> None:
    """List the recipes for `train --model` and `compare --models`.

    Example: `parfocal recipes`
    """
    from parfocal.settings import recipes as known_recipes

    descriptions = known_recipes()
    for name, description in descriptions.items():
        typer.echo(f"{name:{max(map(len, descriptions))}}  {description}")
    say_next("parfocal train cohort.csv --model NAME --out run")


def _check_recipe(name: str) -> None:
    if name != DEFAULT_RECIPE:
        from parfocal.settings import recipe_path

        recipe_path(name)


def train(
    *,
    cohort: Cohort,
    out: Out,
    model: Annotated[
        str,
        typer.Option(
            metavar="RECIPE",
            help="A name from `parfocal recipes`, or a YAML file.",
            callback=checked(_check_recipe),
        ),
    ] = DEFAULT_RECIPE,
    features: Features = None,
    encoder: EncoderName = None,
    trust_remote_code: TrustRemoteCode = False,
    magnifications: Annotated[str | None, MAGNIFICATIONS_OR_RANGE] = None,
    task: TaskName = None,
    target: Target = None,
    time: Time = None,
    event: Event = None,
    epochs: Epochs = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Cross-validate: train one model per fold, in fold-0, fold-1...",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Seed of the split and the training.")
    ] = None,
    cache: Cache = None,
    device: Device = "auto",
    devices: Devices = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    skip_unreadable: SkipUnreadable = False,
    per: Per = None,
    fusion: Fusion = None,
    covariates: Covariates = None,
    threshold: ThresholdText = None,
    temperature: Temperature = False,
    logger: Logger = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML file with settings that override the recipe."),
    ] = None,
    overrides: Overrides = None,
    remote_cache: RemoteCache = None,
    scratch: Scratch = None,
    scratch_gb: ScratchSize = None,
    allow_redirect: AllowRedirect = None,
    shard: ShardText = None,
    workers: Workers = None,
    ray: Ray = None,
    gpus: Gpus = None,
    gpus_per_worker: GpusPerWorker = None,
    threads: Threads = None,
    submit: Submit = None,
    partition: Partition = None,
    time_limit: TimeLimit = None,
    array: Array = None,
    sbatch: Sbatch = None,
    yes: Yes = False,
) -> None:
    """Train a model on labeled slides and write a run folder.

    `--task` selects what to predict instead of a class, such as `--task survival --time os_months
    --event os_event` or `--task regression --target area`.

    Slide files are read as the model zooms, unless `--features` is given. Settings come from the
    recipe, then `--config`, then `--set`, then the other options. Slides that cannot be read are
    reported before the first epoch. With `--folds`, each fold is a run folder of its own; `compare
    --folds` also evaluates them.

    The default model, `zoommil-hindsight`, learns to find small lesions from a few dozen slides.

    Example: `parfocal train cohort.csv --out run --cache cache`
    """
    from parfocal.dataset.split import has_test_slides
    from parfocal.models.covariates import covariate_columns
    from parfocal.settings import load_settings
    from parfocal.tasks import read_task_cohort
    from parfocal.train import train as train_model
    from parfocal.train.run import has_folds

    flags = {
        "encoder.name": encoder,
        "encoder.trust_remote_code": trust_remote_code or None,
        "slide.magnifications": magnifications
        if magnifications is None or "-" in magnifications
        else parse_magnifications(magnifications),
        "train.epochs": epochs,
        "train.threshold": threshold,
        "train.temperature": temperature or None,
        "train.logger": logger,
        "train.devices": devices,
        "train.folds": folds,
        "train.seed": seed,
        "train.per": per,
        "train.fusion": fusion,
        "train.covariates": parse_covariates(covariates),
        **task_flags(task, target, time, event),
    }
    refuse_unknown_encoder(encoder, features)
    with wrong_settings(flags):
        settings = load_settings(model, config, overrides or (), flags)
    job = JobOptions(submit, partition, time_limit, array, sbatch, yes)
    also = ("--resume",)  # for a job that is queued again
    if submit_command(
        *(out, job),
        workers=devices if devices and device == "cpu" else workers,
        threads=threads,
        gpus=gpus or gpus_of_devices(devices, device),
        then_report=True,
        also=also,
    ):
        return
    settings = with_local_runs(settings)
    engine = worker_engine(
        workers=workers,
        ray=ray,
        gpus=gpus,
        gpus_per_worker=gpus_per_worker,
        threads=threads,
        device=device,
    )
    if engine is not None and settings.train.devices > 1:
        raise ArgumentError(
            f"--devices {settings.train.devices} trains one model after the other, each on "
            "several devices, and --workers, --gpus and --ray train the folds of a run side by "
            "side; use one of them. CUDA_VISIBLE_DEVICES selects the GPUs of --devices."
        )
    columns = covariate_columns(settings.train.covariates)
    slides = read_task_cohort(
        cohort,
        settings.train.build_task(),
        columns=columns,
        access=remote_access(remote_cache, scratch, allow_redirect, scratch_gb),
    )
    folder = _open_features(features, slides.slides, magnifications, encoder)
    if engine is not None and not has_folds(slides, settings.train):
        raise ArgumentError(
            "--workers, --gpus and --ray train the folds of a run side by side, and this run has "
            "none; add --folds, or leave them out. The threads that read slides are --threads."
        )
    summary = train_model(
        slides,
        settings,
        out,
        features=folder,
        cache=cache,
        device=device,
        resume=resume,
        skip_unreadable=skip_unreadable,
        distribution=parse_distribution(shard, engine),
    )
    runs = summary.folds or (summary,)
    what = (
        f"mean of {len(runs)} folds"
        if summary.best_epoch is None
        else f"best epoch {summary.best_epoch}"
    )
    typer.echo(f"{out}: {what}, {summary.quality} on the validation slides.")
    for each in runs:
        if each.operating_point is not None:
            typer.echo(f"{each.out.name}: {each.operating_point}")
    if summary.failed:
        typer.echo(
            f"parfocal: {len(summary.failed)} of {len(slides.slides)} slides were left out:",
            err=True,
        )
        print_reasons(summary.failed)
    options = {
        "--features": features,
        "--cache": cache,
        "--device": None if device == "auto" else device,
        "--trust-remote-code": trust_remote_code,
    }
    say_next(after_train(out, cohort, options, tested=has_test_slides(out)))


def _open_features(
    text: str | None,
    slides: "Sequence[FeatureSlide]",
    magnifications: str | None,
    encoder: str | None,
) -> "FeatureFolder | None":
    """Open the features that were given, and check that the other options go with them."""
    from parfocal.features.open_folder import open_features
    from parfocal.settings.stored_features import refuse_other_flags

    features = parse_features(text)
    if features is None:
        return None
    folder = open_features(features, slides, encoder=encoder)
    named = magnifications is not None and "-" not in magnifications
    refuse_other_flags(
        folder,
        magnifications=parse_magnifications(str(magnifications)) if named else None,
        encoder=encoder,
    )
    return folder
