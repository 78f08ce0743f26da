"""Subcommands about slide files and their features: inspect, synth, features."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from parfocal.cli.arguments import (
    MAGNIFICATIONS,
    SLIDES_HELP,
    Again,
    AllowRedirect,
    Mpp,
    RemoteCache,
    Scratch,
    ScratchSize,
    ShardText,
    TissueFiles,
    TissueMethod,
)
from parfocal.cli.checks import ArgumentError, finite_number, parse_magnifications
from parfocal.cli.failures import finish, print_reasons
from parfocal.cli.next_step import (
    after_features,
    after_inspect,
    after_synth,
    can_train,
    say_next,
)
from parfocal.cli.parsing import (
    parse_distribution,
    parse_features,
    parse_slides_apart,
    remote_access,
)
from parfocal.cli.places import output_file, output_folder
from parfocal.cli.submit import (
    Array,
    JobOptions,
    Partition,
    Sbatch,
    Submit,
    Time,
    Yes,
    submit_command,
)
from parfocal.cli.workers import LOCAL, OFF, Ray, Threads, Workers, worker_engine
from parfocal.progress import Progress, bars_erased


def inspect(
    *,
    slides: Annotated[
        list[str],
        typer.Argument(metavar="SLIDE...", help=f"{SLIDES_HELP} Also cohort tables (.csv)."),
    ],
    mpp: Mpp = None,
    tissue: TissueFiles = None,
    tissue_method: TissueMethod = "otsu",
    magnifications: Annotated[str, MAGNIFICATIONS] = "2.5,5,10",
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw tissue and patches of all slides on one sheet, an .html or .png file.",
            callback=output_file(".html", ".png"),
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help="File that keeps the results. Run the same command again to resume.",
            callback=output_file(".jsonl"),
        ),
    ] = None,
    again: Again = False,
    remote_cache: RemoteCache = None,
    scratch: Scratch = None,
    scratch_gb: ScratchSize = None,
    allow_redirect: AllowRedirect = None,
    workers: Workers = None,
    ray: Ray = None,
    threads: Threads = None,
    submit: Submit = None,
    partition: Partition = None,
    time_limit: Time = None,
    array: Array = None,
    sbatch: Sbatch = None,
    yes: Yes = False,
    shard: ShardText = None,
) -> None:
    """Print size, resolution, tissue and patches of slides, and check that they can be used.

    A folder stands for the slides in it. The exit code is 1 if a slide cannot be used; a slide that
    does not have the magnifications gives a warning.

    Example: `parfocal inspect slides/*.svs --picture sheet.html`
    """
    job = JobOptions(submit, partition, time_limit, array, sbatch, yes)
    if submit is not None and out is None:
        raise ArgumentError("--submit: the jobs share a file; add --out FILE.jsonl.")
    if submit_command(out or Path(), job, workers=workers, threads=threads):
        return
    from parfocal.explain.inspection import inspect_slides, list_sources
    from parfocal.features.header import SlideSettings

    access = remote_access(remote_cache, scratch, allow_redirect, scratch_gb)
    paths, failed = parse_slides_apart(slides, access)
    sources = list_sources(paths, mpp=mpp, tissue=tissue, access=access)
    total = len(sources) + len(failed)
    if picture is not None:
        from parfocal.explain.inspection.sheet import check_sheet, write_sheet

        check_sheet(picture, len(sources))
    settings = SlideSettings(parse_magnifications(magnifications), tissue_method=tissue_method)
    engine = worker_engine(workers=workers, ray=ray, threads=threads, device="cpu")
    if out is None and ray not in {None, LOCAL, OFF}:
        raise ArgumentError(
            f"--ray {ray}: the workers of a cluster share a file; add --out FILE.jsonl."
        )
    inspected = []
    results = inspect_slides(
        sources,
        settings,
        pictures=picture is not None,
        out=out,
        again=again,
        distribution=parse_distribution(shard, engine),
    )
    for slide in results:
        inspected.append(slide)
        if slide.report is not None and not as_json:
            with bars_erased():
                typer.echo(slide.report.lines())
    order = {source.path: number for number, source in enumerate(sources)}
    inspected.sort(key=lambda slide: order[slide.path])  # workers end in another order
    if as_json:
        reports = [slide.report.to_json() for slide in inspected if slide.report is not None]
        typer.echo(json.dumps(reports, indent=1))
    if picture is not None and inspected:
        write_sheet(picture, inspected)
    reported = [(slide.path, slide.report) for slide in inspected if slide.report is not None]
    unfit = {str(path): each.patches_problem for path, each in reported if each.patches_problem}
    if unfit:
        typer.echo(f"parfocal: warning: {len(unfit)} of {total} slides have no patches:", err=True)
        print_reasons(unfit)
    then = None
    if not as_json:
        then = after_inspect(
            slides,
            settings.magnifications,
            picture,
            unfit=bool(unfit),
            columns=[*(["mpp"] if mpp is not None else []), *(["tissue"] if tissue else [])],
            tissue_method=tissue_method,
        )
    failed |= {str(slide.path): slide.reason for slide in inspected if slide.reason is not None}
    finish(failed, total, then=then)


def synth(
    *,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="New folder for the slides and cohort.csv.",
            callback=output_folder,
        ),
    ],
    slides: Annotated[int, typer.Option(min=2, metavar="N", help="Number of slides.")],
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed; the same seed generates the same slides.")
    ],
    size: Annotated[
        int,
        typer.Option(min=512, max=100_000, metavar="PX", help="Side of a slide, in pixels."),
    ] = 5120,
    mpp: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=2,
            metavar="MPP",
            help="Microns per pixel, from 0.1 to 2, so that lesions are visible: 1 is 10x, 0.5 is "
            "20x.",
            callback=finite_number,
        ),
    ] = 1.0,
    lesions: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of lesions on a tumor slide.")
    ] = None,
    lesion_um: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="UM",
            help="Maximum width of a lesion, in µm.",
            callback=finite_number,
        ),
    ] = None,
    tiles: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of real tissue tiles, one subfolder per class."),
    ] = None,
    normal_class: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Subfolder of normal tissue. Default: recognized by its name."
        ),
    ] = None,
    lesion_class: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Subfolder of lesion tissue. Default: recognized by its name."
        ),
    ] = None,
    endpoint: Annotated[
        Literal["survival", "regression", "ordinal", "multilabel"] | None,
        typer.Option(
            metavar="ENDPOINT",
            help="Generate targets for a task other than classification: survival, regression, "
            "ordinal or multilabel; cohort.csv has their columns.",
        ),
    ] = None,
) -> None:
    """Generate synthetic slides whose lesions are visible only at high magnification.

    Example: `parfocal synth painted --slides 40 --seed 0`
    """
    if tiles is None and (normal_class or lesion_class):
        name = "--normal-class" if normal_class else "--lesion-class"
        raise ArgumentError(f"{name} is a folder of tiles; give the folder above it with --tiles.")
    if tiles is not None and endpoint is not None:
        raise ArgumentError("--endpoint needs painted texture; leave --tiles out.")
    from parfocal.slide.synthetic.cohort import paint_cohort
    from parfocal.slide.synthetic.painting import default_painting

    painting = default_painting(
        tiles,
        lesions=lesions,
        lesion_um=lesion_um,
        normal_class=normal_class,
        lesion_class=lesion_class,
    )
    progress: Progress | None = None

    def report(done: int, total: int) -> None:
        nonlocal progress
        if progress is None:
            progress = Progress("painting", total)
        if done:
            progress.advance("painted")

    cohort = paint_cohort(
        out,
        slides=slides,
        seed=seed,
        size=size,
        mpp=mpp,
        tiles=tiles,
        painting=painting,
        endpoint=endpoint,
        progress=report,
    )
    typer.echo(f"painted {slides} slides; wrote {cohort}")
    trains = can_train(cohort, endpoint)
    say_next(after_synth(cohort, endpoint, side_um=size * mpp, mpp=mpp, trains=trains))


def features(
    *,
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR|M=DIR,...",
            help="Folder of features, or one per magnification: 2.5=DIR,10=DIR.",
        ),
    ],
    values: Annotated[
        bool,
        typer.Option(
            "--values", help="Also read all features, and report those that are not finite."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Describe a folder of features, and list the slides that cannot be used.

    Features by TRIDENT, CLAM, STAMP, slide2vec and ZoomMIL are recognized by their content.

    Example: `parfocal features job/20x_256px_0px_overlap/features_uni_v2`
    """
    from parfocal.features.describe import describe_features

    found = parse_features(folder)
    assert found is not None
    report = describe_features(found, values=values)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else report.lines())
    then = None if as_json else after_features("cohort.csv", folder)
    retry = "extract the slides that failed again, or leave them out of the cohort"
    finish(report.problems, report.slides + len(report.problems), then=then, retry=retry)
