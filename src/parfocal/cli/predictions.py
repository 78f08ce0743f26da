"""Subcommands that predict: demo, predict."""

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from parfocal.cli.arguments import (
    Again,
    AllowRedirect,
    BudgetText,
    Changes,
    Device,
    EncoderAt,
    Features,
    FinishedOut,
    Mpp,
    RemoteCache,
    Run,
    Scratch,
    ScratchSize,
    ShardText,
    SkipUnreadable,
    Slides,
    TissueFiles,
)
from parfocal.cli.checks import ArgumentError
from parfocal.cli.encoders import TrustRemoteCode
from parfocal.cli.failures import finish
from parfocal.cli.next_step import after_predict, say_next
from parfocal.cli.parsing import (
    parse_changes,
    parse_distribution,
    parse_features,
    parse_places,
    parse_slides_apart,
    refuse_tables,
    remote_access,
)
from parfocal.cli.places import output_folder
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
from parfocal.cli.units import Fusion, Patients, Per, refuse_unused_table
from parfocal.cli.workers import (
    Gpus,
    GpusPerWorker,
    InFlight,
    Ray,
    Threads,
    Workers,
    slides_in_flight,
    worker_engine,
)
from parfocal.progress import bars_erased

if TYPE_CHECKING:
    from parfocal.explain.patient_record import PatientRecord
    from parfocal.models.checkpoint import Checkpoint
    from parfocal.predict.patients import FailedPatient


def demo(
    *,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="New output folder.", callback=output_folder)
    ] = Path("demo-out"),
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of the slides and the training.")
    ] = 0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Only check that everything works, with slides too few to train a useful model.",
        ),
    ] = False,
) -> None:
    """Generate synthetic slides, train on them, evaluate and predict, in a few minutes.

    Example: `parfocal demo`
    """
    from parfocal.demo import run_demo

    for line in run_demo(out, seed=seed, quick=quick):
        with bars_erased():
            typer.echo(line)
    # The environment may not be activated.
    program = "parfocal" if which("parfocal") else Path(sys.executable).with_name("parfocal")
    say_next(f"{program} view {out}")


def predict(
    *,
    run: Run,
    slides: Slides,
    out: FinishedOut,
    mpp: Mpp = None,
    tissue: TissueFiles = None,
    features: Features = None,
    device: Device = "auto",
    per: Per = None,
    fusion: Fusion = None,
    patients: Patients = None,
    skip_unreadable: SkipUnreadable = False,
    budget: BudgetText = None,
    changes: Changes = None,
    encoder_at: EncoderAt = None,
    outlines: Annotated[
        Path | None,
        typer.Option(
            metavar="COHORT", help="CSV whose lesion outlines are drawn on MagNet's leaf squares."
        ),
    ] = None,
    geojson: Annotated[
        bool, typer.Option("--geojson", help="Also write the visited patches for QuPath.")
    ] = False,
    bounds: Annotated[
        bool,
        typer.Option(
            "--from-bounds",
            help="GeoJSON coordinates start at the scanned bounds, as in QuPath for MIRAX.",
        ),
    ] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the attention map as OME-TIFF.")
    ] = False,
    again: Again = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Replace results of other slides that have the same name in DIR."
        ),
    ] = False,
    remote_cache: RemoteCache = None,
    scratch: Scratch = None,
    scratch_gb: ScratchSize = None,
    allow_redirect: AllowRedirect = None,
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
    """Classify slides, reading high-magnification pixels only where the model zooms in.

    Writes a JSON file and a PNG map of the visited patches for each slide, and predictions.csv. Run
    the same command again to resume. If the run predicts per patient, `--patients` is needed, and a
    JSON file for each patient and patients.csv are written, too.

    Example: `parfocal predict run slides/*.svs --out predictions`
    """
    job = JobOptions(submit, partition, time_limit, array, sbatch, yes)
    if submit_command(out, job, workers=workers, threads=threads, gpus=gpus):
        return
    from parfocal.dataset.cohort import read_slides
    from parfocal.dataset.tissue_files import match_tissue_files
    from parfocal.explain.export import Exports
    from parfocal.models.ensemble import load_trained
    from parfocal.predict.folder import FailedSlide, predict_slides
    from parfocal.predict.patient_table import read_patients
    from parfocal.predict.patients import predict_patients
    from parfocal.slide.listing import list_slides

    if patients is not None and outlines is not None:
        raise ArgumentError("--outlines: it is for predictions per slide; leave it out.")
    if patients is not None and in_flight is not None and in_flight > 1:
        raise ArgumentError(
            f"--in-flight {in_flight}: patients are predicted one at a time; use --workers."
        )
    access = remote_access(remote_cache, scratch, allow_redirect, scratch_gb)
    given, failed = parse_slides_apart(slides, access)
    refuse_tables(given)
    overrides = parse_changes(run, changes)
    trained = load_trained(run, overrides=overrides, trust_remote_code=trust_remote_code)
    if (places := parse_places(encoder_at, "--encoder-at")) is not None:
        from parfocal.models.encoder_places import with_encoders_at

        trained = with_encoders_at(trained, places)
    trained = _as_asked(trained, per, fusion, budget, stored=features is not None)
    refuse_unused_table(trained.unit, patients)
    engine = worker_engine(
        workers=workers,
        ray=ray,
        gpus=gpus,
        gpus_per_worker=gpus_per_worker,
        threads=threads,
        in_flight=in_flight,
        device=device,
        gpu_in_flight=1 if patients is not None else slides_in_flight(trained, in_flight),
    )
    lesions = None
    if outlines is not None:
        lesions = {s.path: s.outlines for s in read_slides(outlines) if s.outlines is not None}
    paths, refused = list_slides(given), len(failed)
    exports = Exports(geojson=geojson, from_bounds=bounds, overlay=overlay)
    if patients is not None:
        grouped = read_patients(patients, paths, trained.unit.columns, per=trained.unit.per)
        predicted = predict_patients(
            grouped,
            trained,
            out,
            mpp=mpp,
            device=device,
            tissue=None if tissue is None else match_tissue_files(tissue, paths),
            exports=exports,
            again=again,
            replace_others=replace,
            skip_unreadable=skip_unreadable,
            features=parse_features(features),
            distribution=parse_distribution(shard, engine),
        )
        _print_patients(predicted, len(grouped), out, failed)
        return
    answers = predict_slides(
        paths,
        trained,
        out,
        mpp=mpp,
        device=device,
        outlines=lesions,
        tissue=None if tissue is None else match_tissue_files(tissue, paths),
        exports=exports,
        again=again,
        replace=replace,
        features=parse_features(features),
        distribution=parse_distribution(shard, engine),
    )
    for answer in answers:
        if isinstance(answer, FailedSlide):
            failed[str(answer.path)] = answer.reason
        else:
            with bars_erased():
                typer.echo(answer.summary)
    total = len(paths) + refused
    if len(failed) < total:
        files = ", ".join((".json", ".png", *exports.suffixes))
        typer.echo(f"wrote predictions.csv, and {files} per slide, to {out}", err=True)
    finish(failed, total, then=after_predict(out, patients=False))


def _as_asked(
    trained: "Checkpoint",
    per: Literal["slide", "patient"] | None,
    fusion: Literal["mean", "max", "attention"] | None,
    budget: str | None,
    *,
    stored: bool,
) -> "Checkpoint":
    """Return a model with a budget that predicts slides or patients; refuse what it cannot."""
    from parfocal.models.visit import given_budget, refuse_fused
    from parfocal.tasks import task_of
    from parfocal.tasks.registry import refuse_fusion

    trained = given_budget(trained, budget, stored=stored)
    unit = trained.unit.asked_for(per, fusion)
    refuse_fused(unit, budget)
    refuse_fusion(unit.fusion, task_of(trained))
    return dataclasses.replace(trained, unit=unit)


def _print_patients(
    answers: "Iterable[PatientRecord | FailedPatient]",
    count: int,
    out: Path,
    failed: dict[str, str],
) -> None:
    """Print a line for each patient as it is predicted."""
    from parfocal.predict.patients import FailedPatient

    refused = len(failed)
    for answer in answers:
        if isinstance(answer, FailedPatient):
            failed[answer.id] = answer.reason
        else:
            with bars_erased():
                typer.echo(answer.summary)
    total = count + refused
    if len(failed) < total:
        written = "patients.csv, .patient.json per patient, and .json and .png per slide"
        typer.echo(f"wrote {written}, to {out}", err=True)
    then = after_predict(out, patients=True)
    finish(failed, total, unit="patients", then=then)
