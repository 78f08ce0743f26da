"""The subcommand `extract`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from parfocal.cli.arguments import (
    ENCODERS,
    MAGNIFICATIONS,
    AllowRedirect,
    Cache,
    Device,
    FinishedOut,
    RemoteCache,
    Scratch,
    ScratchSize,
    ShardText,
    TissueMethod,
)
from parfocal.cli.checks import finite_number, parse_magnifications
from parfocal.cli.encoders import TrustRemoteCode
from parfocal.cli.failures import finish
from parfocal.cli.next_step import after_features, quoted
from parfocal.cli.parsing import (
    parse_distribution,
    refuse_unknown_encoder,
    remote_access,
    wrong_settings,
)
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
from parfocal.cli.workers import (
    Gpus,
    GpusPerWorker,
    InFlight,
    Ray,
    Threads,
    Workers,
    uses_workers,
    worker_engine,
)
from parfocal.printable import counted

TISSUE = 0.1  # smallest share of tissue in a patch
EXTRACTED_ON_GPU = 4  # slides at a time: the next ones are opened and read ahead


def extract(
    *,
    cohort: Annotated[
        Path,
        typer.Argument(
            metavar="COHORT",
            help="CSV with columns slide_id and path. Relative paths start at its folder.",
        ),
    ],
    out: FinishedOut,
    magnifications: Annotated[str, MAGNIFICATIONS],
    encoder: Annotated[
        str, typer.Option(metavar="NAME", help=f"Patch encoder: {ENCODERS}")
    ] = "efficientnet-lite0",
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Encoder weights: a file, or a folder downloaded from the Hub. Default: the "
            "published ones.",
        ),
    ] = None,
    patch_size: Annotated[
        int, typer.Option(min=16, metavar="PX", help="Side of a patch, in pixels.")
    ] = 256,
    children: Annotated[
        Literal["tissue", "all"],
        typer.Option(
            metavar="WHICH",
            help="Patches of the higher magnifications to store: those with enough tissue "
            "(tissue), or all descendants of the lowest ones (all).",
        ),
    ] = "tissue",
    roots: Annotated[
        Literal["descendants", "share"],
        typer.Option(
            metavar="RULE",
            help="Patches of the lower magnifications to store: those with enough tissue in a "
            "patch of the highest one inside them (descendants), or in themselves (share; for "
            "models of version 1).",
        ),
    ] = "descendants",
    tissue_method: TissueMethod = "otsu",
    min_tissue: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Minimum share of tissue in a patch.",
            callback=finite_number,
        ),
    ] = TISSUE,
    layout: Annotated[
        Literal["parfocal", "trident"],
        typer.Option(
            metavar="NAME",
            help="Layout of the files: parfocal, one file for each slide; or trident, a folder for "
            "each magnification, which MIL-Lab, Patho-Bench and torchmil read.",
        ),
    ] = "parfocal",
    cache: Cache = None,
    device: Device = "auto",
    remote_cache: RemoteCache = None,
    scratch: Scratch = None,
    scratch_gb: ScratchSize = None,
    allow_redirect: AllowRedirect = None,
    encoder_output: Annotated[
        str | None,
        typer.Option(
            metavar="OUTPUT",
            help="Output of the encoder: cls, cls+mean, mean or pooled, or one per magnification. "
            "Default: the encoder's own.",
        ),
    ] = None,
    any_mpp: Annotated[
        bool,
        typer.Option("--any-mpp", help="Use encoders even at resolutions they were not made for."),
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    workers: Workers = None,
    ray: Ray = None,
    gpus: Gpus = None,
    gpus_per_worker: GpusPerWorker = None,
    threads: Threads = None,
    in_flight: InFlight = None,
    submit: Submit = None,
    partition: Partition = None,
    time_limit: Time = None,
    array: Array = None,
    sbatch: Sbatch = None,
    yes: Yes = False,
    shard: ShardText = None,
) -> None:
    """Encode all patches and store the features, one HDF5 file per slide.

    Training does not need this, but several training runs on the same slides are faster with it.
    Run the same command again to resume; commands that run at the same time share the slides.

    Example: `parfocal extract cohort.csv --out features --magnifications 2.5,5,10`
    """
    from functools import partial

    from parfocal.dataset import read_slides
    from parfocal.dataset.same_file import refuse_equal_contents
    from parfocal.features.extract import extract_cohort
    from parfocal.features.foreign.trident_writer import TridentLayout
    from parfocal.features.header import SlideSettings
    from parfocal.settings.encoders import encoder_settings, load_encoders

    refuse_unknown_encoder(encoder)
    settings = SlideSettings(
        parse_magnifications(magnifications), patch_size, tissue_method, min_tissue, children, roots
    )
    options = {
        "encoder.name": encoder,
        "encoder.weights": weights,
        "encoder.output": encoder_output,
        "slide.magnifications": magnifications,
    }
    with wrong_settings(options):
        chosen = encoder_settings(
            encoder,
            settings.magnifications,
            weights=weights,
            output=encoder_output,
            any_mpp=any_mpp,
            trust_remote_code=trust_remote_code,
        )
    job = JobOptions(submit, partition, time_limit, array, sbatch, yes)
    if submit_command(out, job, workers=workers, threads=threads, gpus=gpus):
        return
    engine = worker_engine(
        workers=workers,
        ray=ray,
        gpus=gpus,
        gpus_per_worker=gpus_per_worker,
        threads=threads,
        in_flight=in_flight,
        device=device,
        gpu_in_flight=EXTRACTED_ON_GPU,
    )
    access = remote_access(remote_cache, scratch, allow_redirect, scratch_gb)
    slides = read_slides(cohort, access=access)
    refuse_equal_contents(cohort, slides)
    load = partial(load_encoders, chosen, settings.magnifications, patch_size=patch_size)
    files = [(slide.slide_id, slide.path, slide.mpp) for slide in slides]
    result = extract_cohort(
        files,
        out,
        # Where workers encode, this process needs to know the encoders only.
        encoder=load(device="cpu" if uses_workers(engine) else device),
        load_encoders=partial(load, device=device),
        distribution=parse_distribution(shard, engine),
        settings=settings,
        cache=cache,
        tissue={slide.slide_id: slide.tissue for slide in slides if slide.tissue is not None},
        layout=TridentLayout(out) if layout == "trident" else None,
    )
    others = f", {len(result.elsewhere)} by other processes" if result.elsewhere else ""
    done = counted(len(result.done), "slide")
    typer.echo(f"{done} extracted, {len(result.skipped)} already in {out}{others}")
    kept: dict[str, object] = {
        "encoder.weights": weights,
        "encoder.output": encoder_output,
        "encoder.any_mpp": "true" if any_mpp else None,
        "slide.tissue_method": None if tissue_method == "otsu" else tissue_method,
        "slide.min_tissue": None if min_tissue == TISSUE else min_tissue,
        "slide.children": None if children == "tissue" else children,
        "slide.roots": None if roots == "descendants" else roots,
    }
    then = None
    if len(result.failed) < len(slides):
        labeled = any(slide.label for slide in slides)
        then = after_features(
            quoted(cohort),
            str(out),
            settings=kept if layout == "parfocal" else {},
            trust_remote_code=trust_remote_code,
            labeled=labeled,
        )
    finish(result.failed, len(slides), then=then)
