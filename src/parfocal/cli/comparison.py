"""The subcommand `compare`."""

from typing import Annotated

import typer

from parfocal.cli.arguments import (
    AllowRedirect,
    Cache,
    Cohort,
    Device,
    EncoderName,
    Epochs,
    Features,
    Logger,
    NamedOverrides,
    RemoteCache,
    ResumableOut,
    Scratch,
    ScratchSize,
    ShardText,
    SkipUnreadable,
    TimedSlides,
)
from parfocal.cli.checks import checked, wrong_usage
from parfocal.cli.encoders import TrustRemoteCode
from parfocal.cli.failures import finish
from parfocal.cli.next_step import open_in_browser
from parfocal.cli.parsing import (
    parse_distribution,
    parse_features,
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
    TimeLimit,
    Yes,
    submit_command,
)
from parfocal.cli.tasks import Event, Target, TaskName, Time, task_flags
from parfocal.cli.units import Covariates, Fusion, Per, parse_covariates
from parfocal.cli.workers import Gpus, GpusPerWorker, Ray, Threads, Workers, worker_engine


def _check_models(text: str) -> None:
    from parfocal.settings import recipe_path

    for name in text.split(","):
        recipe_path(name)


def _check_shares(text: str) -> None:
    from parfocal.compare.curve import parse_shares

    parse_shares(text)


def compare(
    *,
    cohort: Cohort,
    models: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME,...",
            help="Names from `parfocal recipes`, or YAML files.",
            callback=checked(_check_models),
        ),
    ],
    out: ResumableOut,
    folds: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Number of cross-validation folds.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of training runs per model.")
    ] = 1,
    epochs: Epochs = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Metric to rank the models by and to plot: weighted_f1 (default), accuracy or "
            "auroc_macro; for other tasks, a score of the task, by default the first.",
        ),
    ] = None,
    task: TaskName = None,
    target: Target = None,
    time: Time = None,
    event: Event = None,
    encoder: EncoderName = None,
    trust_remote_code: TrustRemoteCode = False,
    features: Features = None,
    cache: Cache = None,
    device: Device = "auto",
    timed: TimedSlides = 3,
    skip_unreadable: SkipUnreadable = False,
    per: Per = None,
    fusion: Fusion = None,
    covariates: Covariates = None,
    shares: Annotated[
        str | None,
        typer.Option(
            metavar="P,P,...",
            help="Also evaluate models that zoom at these shares of the patches, in percent, such "
            "as 1,2,5,10,20,100, and plot the metric against the share.",
            callback=checked(_check_shares),
        ),
    ] = None,
    logger: Logger = None,
    overrides: NamedOverrides = None,
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
    """Train and evaluate several models on the same splits; report accuracy against cost.

    Writes results.csv, results.md, results.png and report.html. Run the same command again to
    resume.

    Example: `parfocal compare cohort.csv --models zoommil,abmil --out comparison`
    """
    from parfocal.compare import ComparisonError, check_comparison, load_candidates
    from parfocal.compare import compare as compare_models
    from parfocal.compare.curve import parse_shares

    flags = {
        "train.per": per,
        "train.fusion": fusion,
        "train.covariates": parse_covariates(covariates),
        "train.logger": logger,
        **task_flags(task, target, time, event),
    }
    refuse_unknown_encoder(encoder, features)
    budgets = () if shares is None else parse_shares(shares)
    with wrong_usage(ComparisonError), wrong_settings({**flags, "encoder.name": encoder}):
        candidates = load_candidates(
            models.split(","),
            overrides=overrides or (),
            epochs=epochs,
            folds=folds,
            encoder=encoder,
            trust_remote_code=trust_remote_code,
            flags=flags,
        )
        check_comparison(candidates, metric=metric, shares=budgets)
    job = JobOptions(submit, partition, time_limit, array, sbatch, yes)
    if submit_command(*(out, job), workers=workers, threads=threads, gpus=gpus, then_report=True):
        return
    engine = worker_engine(
        workers=workers,
        ray=ray,
        gpus=gpus,
        gpus_per_worker=gpus_per_worker,
        threads=threads,
        device=device,
    )
    rows = compare_models(
        cohort,
        candidates,
        out,
        seeds=seeds,
        features=parse_features(features),
        cache=cache,
        device=device,
        metric=metric,
        timed=timed,
        skip_unreadable=skip_unreadable,
        shares=budgets,
        distribution=parse_distribution(shard, engine),
        access=remote_access(remote_cache, scratch, allow_redirect, scratch_gb),
    )
    typer.echo((out / "results.md").read_text(encoding="utf-8"))
    then = None
    if (out / "report.html").exists():
        then = open_in_browser(out / "report.html")
    failed = {row.result.name: row.result.reason for row in rows if row.result.reason}
    finish(failed, len(rows), unit="models", then=then)
