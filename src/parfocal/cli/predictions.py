"""Subcommands about answers: demo, predict."""

from pathlib import Path
from typing import Annotated

import typer

from parfocal.cli.arguments import (
    Changes,
    Device,
    Mpp,
    Out,
    Run,
    Slides,
    finish,
    folder_to_write,
    parse_changes,
)


def demo(
    *,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="A new folder.", callback=folder_to_write)
    ] = Path("demo-out"),
    seed: Annotated[int, typer.Option(min=0, help="Of the slides and the training.")] = 0,
) -> None:
    """Paint slides, train on them, evaluate and predict: the whole road, in minutes.

    Example: `parfocal demo`, then look into demo-out.
    """
    from parfocal.demo import run_demo

    for line in run_demo(out, seed=seed):
        typer.echo(line)


def predict(
    *,
    run: Run,
    slides: Slides,
    out: Out,
    mpp: Mpp = None,
    device: Device = "auto",
    changes: Changes = None,
    outlines: Annotated[
        Path | None,
        typer.Option(metavar="COHORT", help="A table whose outlines are drawn on MagNet's leaves."),
    ] = None,
    geojson: Annotated[bool, typer.Option("--geojson", help="Also patches for QuPath.")] = False,
    bounds: Annotated[
        bool,
        typer.Option("--from-bounds", help="Count those from the scanned bounds, as of MIRAX."),
    ] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also attention as an OME-TIFF.")
    ] = False,
) -> None:
    """Classify slides, reading sharp pixels only where the model zooms in.

    Of each slide DIR gets a JSON and a PNG that shows where the model looked, and
    predictions.csv has a row for each.

    Example: `parfocal predict run slides/*.svs --out predictions`
    """
    from parfocal.dataset.cohort import read_cohort
    from parfocal.explain.export import export
    from parfocal.models.checkpoint import Checkpoint
    from parfocal.predict.slide import FailedSlide, predict_slides

    failed: dict[str, str] = {}
    trained = Checkpoint.load(run, changed=parse_changes(changes))
    known = None
    if outlines is not None:
        slides_of = read_cohort(outlines, labels=trained.labels).slides
        known = {slide.path: slide.outlines for slide in slides_of if slide.outlines is not None}
    for slide in predict_slides(slides, trained, out, mpp=mpp, device=device, outlines=known):
        if isinstance(slide, FailedSlide):
            failed[str(slide.path)] = slide.reason
        else:
            typer.echo(slide.line)
            export(slide, out, geojson=geojson, from_bounds=bounds, overlay=overlay)
    if len(failed) < len(slides):
        typer.echo(f"a picture and a JSON of each slide, and predictions.csv: see {out}", err=True)
    finish(failed, len(slides))
