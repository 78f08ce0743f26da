"""Subcommands that evaluate a model: evaluate, audit."""

from typing import Annotated

import typer

from parfocal.cli.arguments import (
    Again,
    AllowRedirect,
    BudgetText,
    Cache,
    Changes,
    Cohort,
    Device,
    EncoderAt,
    External,
    Features,
    Out,
    Part,
    RemoteCache,
    Run,
    Scratch,
    ScratchSize,
    ShardText,
    SkipUnreadable,
)
from parfocal.cli.encoders import TrustRemoteCode
from parfocal.cli.failures import finish
from parfocal.cli.next_step import after_audit, after_evaluate
from parfocal.cli.parsing import (
    parse_changes,
    parse_distribution,
    parse_features,
    parse_places,
    remote_access,
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
from parfocal.cli.units import Fusion, Per
from parfocal.cli.workers import Gpus, GpusPerWorker, Ray, Threads, Workers, worker_engine


def evaluate(
    *,
    run: Run,
    cohort: Cohort,
    out: Out,
    split: Annotated[
        Part,
        typer.Option(metavar="PART", help="Part of the run's split: train, val, test or all."),
    ] = "test",
    features: Features = None,
    cache: Cache = None,
    device: Device = "auto",
    training_slides: Annotated[
        bool,
        typer.Option(
            "--allow-training-slides", help="Also score slides that the model was trained on."
        ),
    ] = False,
    external: External = False,
    again: Again = False,
    per: Per = None,
    fusion: Fusion = None,
    skip_unreadable: SkipUnreadable = False,
    budget: BudgetText = None,
    changes: Changes = None,
    encoder_at: EncoderAt = None,
    trust_remote_code: TrustRemoteCode = False,
    remote_cache: RemoteCache = None,
    scratch: Scratch = None,
    scratch_gb: ScratchSize = None,
    allow_redirect: AllowRedirect = None,
    workers: Workers = None,
    ray: Ray = None,
    gpus: Gpus = None,
    gpus_per_worker: GpusPerWorker = None,
    threads: Threads = None,
    submit: Submit = None,
    partition: Partition = None,
    time_limit: Time = None,
    array: Array = None,
    sbatch: Sbatch = None,
    yes: Yes = False,
    shard: ShardText = None,
) -> None:
    """Compute the metrics of a trained model on held-out slides.

    Writes metrics.json (with 95% confidence intervals), predictions.csv and report.html. Run the
    same command again to resume.

    Example: `parfocal evaluate run cohort.csv --out evaluation`
    """
    job = JobOptions(submit, partition, time_limit, array, sbatch, yes)
    if submit_command(out, job, workers=workers, threads=threads, gpus=gpus):
        return
    from parfocal.evaluate.run import evaluate as evaluate_model

    engine = worker_engine(
        workers=workers,
        ray=ray,
        gpus=gpus,
        gpus_per_worker=gpus_per_worker,
        threads=threads,
        device=device,
    )
    result = evaluate_model(
        run,
        cohort,
        out,
        split=split,
        features=parse_features(features),
        cache=cache,
        device=device,
        allow_training_slides=training_slides,
        external=external,
        again=again,
        per=per,
        fusion=fusion,
        skip_unreadable=skip_unreadable,
        budget=budget,
        overrides=parse_changes(run, changes),
        encoder_at=parse_places(encoder_at, "--encoder-at"),
        trust_remote_code=trust_remote_code,
        distribution=parse_distribution(shard, engine),
        access=remote_access(remote_cache, scratch, allow_redirect, scratch_gb),
    )
    written = [name for name in ("metrics.json", "report.html") if (out / name).exists()]
    typer.echo(f"{result.summary}; wrote {' and '.join(str(out / name) for name in written)}")
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    failed = {failure.slide.slide_id: failure.reason for failure in result.failed}
    options = {
        "--features": features,
        "--device": None if device == "auto" else device,
        "--per": per,
        "--fusion": fusion,
        "--budget": budget,
        "--set": changes,
        "--encoder-at": encoder_at,
        "--trust-remote-code": trust_remote_code,
    }
    if per is not None:
        options["--patients"] = "TABLE" if per == "patient" else None
    then = after_evaluate(run, out / "report.html", options)
    finish(failed, len(failed) + len(result.results), then=then)


def audit(
    *,
    run: Run,
    cohort: Cohort,
    out: Out,
    features: Features = None,
    cache: Cache = None,
    device: Device = "auto",
    external: External = False,
    again: Again = False,
    budget: BudgetText = None,
    trust_remote_code: TrustRemoteCode = False,
    remote_cache: RemoteCache = None,
    scratch: Scratch = None,
    scratch_gb: ScratchSize = None,
    allow_redirect: AllowRedirect = None,
    workers: Workers = None,
    ray: Ray = None,
    gpus: Gpus = None,
    gpus_per_worker: GpusPerWorker = None,
    threads: Threads = None,
    submit: Submit = None,
    partition: Partition = None,
    time_limit: Time = None,
    array: Array = None,
    sbatch: Sbatch = None,
    yes: Yes = False,
    shard: ShardText = None,
) -> None:
    """Measure what skipping patches costs: compare a zooming model with itself on all patches.

    Writes audit.json and audit.csv for the test slides of the run. Run the same command again to
    resume.

    Example: `parfocal audit run cohort.csv --out audit`
    """
    job = JobOptions(submit, partition, time_limit, array, sbatch, yes)
    if submit_command(out, job, workers=workers, threads=threads, gpus=gpus):
        return
    from parfocal.audit import audit as audit_model

    engine = worker_engine(
        workers=workers,
        ray=ray,
        gpus=gpus,
        gpus_per_worker=gpus_per_worker,
        threads=threads,
        device=device,
    )
    result = audit_model(
        run,
        cohort,
        out,
        features=parse_features(features),
        cache=cache,
        device=device,
        external=external,
        again=again,
        budget=budget,
        trust_remote_code=trust_remote_code,
        distribution=parse_distribution(shard, engine),
        access=remote_access(remote_cache, scratch, allow_redirect, scratch_gb),
    )
    typer.echo(f"{result.summary}; wrote {out / 'audit.json'}")
    failed = {failure.slide.slide_id: failure.reason for failure in result.failed}
    agreement = result.agreement.value if result.agreement is not None else None
    options = {
        "--features": features,
        "--device": None if device == "auto" else device,
        "--budget": budget,
        "--trust-remote-code": trust_remote_code,
    }
    then = after_audit(run, agreement, options)
    finish(failed, len(failed) + len(result.slides), then=then)
