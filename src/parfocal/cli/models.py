"""Subcommands about models: train, evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from parfocal.cli.arguments import (
    ENCODERS,
    MAGNIFICATIONS,
    Cache,
    Cohort,
    Device,
    Features,
    Out,
    Part,
    Run,
    finish,
    parse_magnifications,
)


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
        "slide.magnifications": None
        if magnifications is None
        else parse_magnifications(magnifications),
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
    finish(summary.failed, len(slides.slides))


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
    finish(failed, len(failed) + len(result.results))
