"""Subcommands about models: recipes, train, evaluate, compare, audit."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from parfocal.cli.arguments import (
    ENCODERS_SET,
    LADDER,
    Cache,
    Changes,
    Cohort,
    Device,
    External,
    Features,
    Out,
    OutToGoOnWith,
    Part,
    Run,
    finish,
    parse_changes,
    parse_magnifications,
)


def recipes() -> None:
    """List the recipes that `train --model` and `compare --models` take.

    Example: `parfocal recipes`
    """
    from parfocal.settings import recipes as known_recipes

    known = known_recipes()
    for name, what in known.items():
        typer.echo(f"{name:{max(map(len, known))}}  {what}")


def train(
    *,
    cohort: Cohort,
    out: Out,
    model: Annotated[
        str, typer.Option(metavar="RECIPE", help="As `parfocal recipes` lists, or a YAML file.")
    ] = "zoommil",
    features: Features = None,
    encoder: Annotated[str | None, typer.Option(metavar="NAME", help=ENCODERS_SET)] = None,
    magnifications: Annotated[str | None, LADDER] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most.")] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Train so many models, each tested on another part: fold-0..."),
    ] = None,
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
    """Train a model on labeled slides; the run folder is all that prediction needs.

    Slides are read as the model zooms, or `--features` are used. The settings come from the
    recipe, then `--config`, then `--set`, then the other options. Each of several folds is a run of
    its own to evaluate and predict with; `compare --folds` trains and evaluates all at once.

    Example: `parfocal train cohort.csv --model zoommil --out run --cache cache`
    """
    from parfocal.dataset import read_cohort
    from parfocal.settings import load_settings
    from parfocal.train import train as train_model

    flags = {
        "encoder.name": encoder,
        "slide.magnifications": magnifications
        if magnifications is None or "-" in magnifications
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
        else f"epoch {summary.best_epoch} was best,"
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
    external: External = False,
    changes: Changes = None,
) -> None:
    """Tell how good a trained model is on slides it has not seen.

    DIR gets metrics.json, with 95% intervals, predictions.csv and report.html.

    Example: `parfocal evaluate run cohort.csv --out evaluation`
    """
    from parfocal.evaluate.run import evaluate as evaluate_model

    result = evaluate_model(
        run,
        cohort,
        out,
        split=split,
        features=features,
        cache=cache,
        device=device,
        allow_training_slides=training_slides,
        external=external,
        changed=parse_changes(changes),
    )
    written = [name for name in ("metrics.json", "report.html") if (out / name).exists()]
    typer.echo(f"{result.summary}; see {' and '.join(str(out / name) for name in written)}")
    failed = {failure.slide.slide_id: failure.reason for failure in result.failed}
    finish(failed, len(failed) + len(result.results))


def compare(
    *,
    cohort: Cohort,
    models: Annotated[
        str, typer.Option(metavar="NAME,NAME,...", help="Recipes, or YAML files, as of train.")
    ],
    out: OutToGoOnWith,
    folds: Annotated[int | None, typer.Option(min=2, help="Train so many of each.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Train each so many times.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most.")] = None,
    metric: Annotated[
        Literal["weighted_f1", "accuracy", "auroc_macro"], typer.Option(help="What is drawn.")
    ] = "weighted_f1",
    encoder: Annotated[str | None, typer.Option(metavar="NAME", help=ENCODERS_SET)] = None,
    features: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Stored features; else they are extracted.")
    ] = None,
    cache: Cache = None,
    device: Device = "auto",
    timed: Annotated[int, typer.Option(min=0, help="Slides to read from their files.")] = 3,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="[NAME:]KEY=VALUE", help="One setting of all models, or of one."
        ),
    ] = None,
) -> None:
    """Compare models on the same splits: accuracy against cost.

    DIR gets results.csv, results.md, results.png and report.html. The same command goes on where
    it stopped.

    Example: `parfocal compare cohort.csv --models zoommil,abmil,clam-sb --out comparison`
    """
    from parfocal.compare import compare as compare_models
    from parfocal.compare import load_candidates

    candidates = load_candidates(
        models.split(","), overrides=overrides or (), epochs=epochs, folds=folds, encoder=encoder
    )
    rows = compare_models(
        cohort,
        candidates,
        out,
        seeds=seeds,
        features=features,
        cache=cache,
        device=device,
        metric=metric,
        timed=timed,
    )
    typer.echo((out / "results.md").read_text(encoding="utf-8"))
    if (out / "report.html").exists():
        typer.echo(f"{out / 'report.html'}: open it in a browser")
    failed = {row.result.name: row.result.reason for row in rows if row.result.reason}
    finish(failed, len(rows), what="models")


def audit(
    *,
    run: Run,
    cohort: Cohort,
    out: Out,
    features: Features = None,
    cache: Cache = None,
    device: Device = "auto",
    external: External = False,
) -> None:
    """Tell what skipping costs: a zooming model beside itself with everything visible.

    DIR gets audit.json and audit.csv, of the run's test slides.

    Example: `parfocal audit run cohort.csv --out audit`
    """
    from parfocal.audit import audit as audit_model

    result = audit_model(
        run, cohort, out, features=features, cache=cache, device=device, external=external
    )
    typer.echo(f"{result.summary}; see {out / 'audit.json'}")
    failed = {failure.slide.slide_id: failure.reason for failure in result.failed}
    finish(failed, len(failed) + len(result.slides))
