"""Subcommands about slides alone: inspect, synth, extract."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from parfocal.cli.arguments import (
    ENCODERS,
    MAGNIFICATIONS,
    Device,
    Mpp,
    Out,
    Slides,
    finish,
    folder_to_write,
    parse_magnifications,
)


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
    finish(failed, len(slides))


def synth(
    *,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A new folder; the table is OUT/cohort.csv.",
            callback=folder_to_write,
        ),
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
        str | None,
        typer.Option(metavar="NAME", help="Folder of normal tissue; else the one whose name says."),
    ] = None,
    lesion_class: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Folder of lesions; else the one whose name says."),
    ] = None,
) -> None:
    """Paint slides to practice on, with lesions that show only when sharp.

    Example: `parfocal synth painted --slides 40 --seed 0`
    """
    from parfocal.slide.synthetic.cohort import paint_cohort
    from parfocal.slide.synthetic.painting import default_painting

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
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of the encoder, .pth or .safetensors, if not its own."),
    ] = None,
    patch_size: Annotated[int, typer.Option(min=16, help="Side of a patch in pixels.")] = 256,
    children: Annotated[
        Literal["tissue", "all"], typer.Option(help="Sharper patches: with any tissue, or all.")
    ] = "tissue",
    tissue: Annotated[
        Literal["otsu", "gray", "all"], typer.Option(help="How tissue is told from glass.")
    ] = "otsu",
    min_tissue: Annotated[
        float, typer.Option(min=0, max=1, help="Least share of it in a patch, lowest first.")
    ] = 0.1,
    device: Device = "auto",
) -> None:
    """Store the features of every patch, one HDF5 file a slide; goes on where it stopped.

    Not needed for training, but makes many trainings on the same slides faster.

    Example: `parfocal extract cohort.csv --out features --magnifications 1.25,2.5,10`
    """
    from parfocal.dataset import read_slides
    from parfocal.encoders.encoder import load_encoder
    from parfocal.features.extract import extract_cohort
    from parfocal.features.header import SlideSettings

    slides = read_slides(cohort)
    settings = SlideSettings(
        parse_magnifications(magnifications), patch_size, tissue, min_tissue, children
    )
    loaded = load_encoder(encoder, device=device, weights=weights)
    result = extract_cohort(slides, out, encoder=loaded, settings=settings)
    typer.echo(f"{len(result.done)} slides extracted, {len(result.skipped)} were there already")
    finish(result.failed, len(slides))
