"""Train a model on a cohort: split it, check its slides, and train one model per fold."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from parfocal.dataset.cohort import Cohort, CohortError, require_files, without_slides
from parfocal.dataset.inputs import Inputs, NoInputs, cohort_inputs, refuse_features
from parfocal.dataset.leakage import refuse_copies
from parfocal.dataset.lesions import Lesions
from parfocal.dataset.patients import group_patients
from parfocal.dataset.split import Split, fold_cohort, read_left_out, split_cohort
from parfocal.distribute.claims import Claim
from parfocal.distribute.session import is_at_work
from parfocal.distribute.worklist import EVERYTHING_HERE, Distribution
from parfocal.encoders.catalog import canonical_name
from parfocal.encoders.device import choose_device
from parfocal.encoders.per_magnification import encoder_text
from parfocal.encoders.right_use import warn_of_patch_size, warn_outside_range
from parfocal.encoders.spec import EncoderSpec
from parfocal.encoders.weights import check_exists
from parfocal.features.errors import MixedFeaturesError
from parfocal.features.folder import FeatureFolder
from parfocal.features.live import reading_threads
from parfocal.features.open_folder import Features, open_features
from parfocal.files import refuse_slide_folder
from parfocal.models.covariates import covariate_columns
from parfocal.models.unit import Unit
from parfocal.settings import EncoderSettings, RunSettings, TrainSettings
from parfocal.settings.check_unit import require_covariates
from parfocal.settings.encoders import load_encoders
from parfocal.settings.stored_features import follow_features
from parfocal.slide.resolution import mpp_of
from parfocal.tasks import prepared_task
from parfocal.tasks.registry import shared_by_folds
from parfocal.tasks.units import entries_of
from parfocal.train.checks import log_left_out, log_true_resolutions, refuse_unknown_strata
from parfocal.train.devices import refuse_missing_devices
from parfocal.train.early_checks import refuse_unusable_columns, refuse_unusable_teacher
from parfocal.train.folder import RunClaim, RunError, RunFolder, claimed, refuse_used
from parfocal.train.loggers import require_logger
from parfocal.train.prepared import PreparedTraining
from parfocal.train.slide_checks import CheckedSlide, SlideChecks
from parfocal.train.summary import RunSummary
from parfocal.train.training_run import TrainingRun

logger = logging.getLogger(__name__)


def train(
    cohort: Cohort,
    settings: RunSettings,
    out: Path,
    *,
    features: Features | None = None,
    cache: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    progress: bool = True,
    skip_unreadable: bool = False,
    unreadable: Mapping[str, str] | None = None,
    distribution: Distribution = EVERYTHING_HERE,
) -> RunSummary:
    """Train a model on a cohort and write a run folder (see `parfocal.train.folder`).

    With `settings.train.folds`, or if the cohort has a column of folds, one run per fold is
    written, to `out/fold-0`, `out/fold-1` and so on.

    Args:
        cohort: slides with their targets, as `tasks.read_task_cohort` reads them.
        settings: settings of the run.
        out: run folder; it must be empty or missing unless `resume`, or a run of the same folds.
        features: folder of features by parfocal or by another tool, or folders by magnification;
            None to read the slide files as the model zooms. Features of another tool decide the
            magnifications, the patch size and the encoder.
        cache: folder that keeps features or pixels between epochs and runs; None for no cache.
        device: device of the encoder and the model: "auto", "cpu", "cuda" or "cuda:1".
        workers: number of threads that read slides; None for one per CPU core, at most 8.
        resume: whether to continue the run in `out` after its last complete epoch. Folds always
            are.
        progress: whether to show a bar per epoch in a terminal. Each epoch is a line in the log.
        skip_unreadable: whether to train without the slides that cannot be read, which are listed
            in failed.csv, summary.json and the report. They are left out before the cohort is
            split. If False, they are refused before the first epoch.
        unreadable: reason of each slide that is already known to be unreadable, by slide id.
        distribution: how folds are divided among processes. Several calls with the same `out`
            share the folds.

    Raises:
        CohortError: files are missing, or the cohort cannot be split.
        ClaimError: another process is training in `out`.
        OutputError: `out` holds slides of the cohort.
        RunError: `out` is not empty, too few slides can be read, or the logger is not installed.
        StoreError: stored features do not fit the settings, or the cache cannot be written.
        ShardEndedError: the folds of the shard are done, but not yet those of the others.
        KeyboardInterrupt: Ctrl-C was pressed; continue with `resume`.
    """
    refuse_slide_folder(out, (slide.path for slide in cohort.slides))
    if has_folds(cohort, settings.train) and any(slide.split for slide in cohort.slides):
        logger.info("%s: with folds, the split column is not used", cohort.source.name)
    with nullcontext() if has_folds(cohort, settings.train) else claimed(out) as claim:
        prepared = prepare_training(
            cohort,
            settings,
            out,
            features=features,
            cache=cache,
            device=device,
            workers=workers,
            resume=resume,
            progress=progress,
            skip_unreadable=skip_unreadable,
            unreadable=unreadable,
            claim=claim,
        )
        return prepared.train(distribution, resume=resume)


def prepare_training(
    cohort: Cohort,
    settings: RunSettings,
    out: Path,
    *,
    features: Features | None = None,
    cache: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    progress: bool = True,
    skip_unreadable: bool = False,
    unreadable: Mapping[str, str] | None = None,
    claim: Claim | None = None,
    checked: Mapping[str, CheckedSlide] | None = None,
) -> PreparedTraining:
    """Check everything that a training needs, and return what is left to do.

    Args:
        cohort: see `train`, as for the other arguments.
        settings: settings of the run.
        out: run folder.
        features: features of the slides.
        cache: folder that keeps features or pixels.
        device: device of the encoder and the model.
        workers: number of threads that read slides.
        resume: whether to continue the run in `out`.
        progress: whether to show a bar per epoch.
        skip_unreadable: whether to train without the slides that cannot be read.
        unreadable: slides that are known to be unreadable.
        claim: claim on `out`, if it is held; None to claim the folder of each run as it begins.
        checked: results of slides that were checked, by slide id, in a process that trains a run
            together with others; None in any other.

    Raises:
        CohortError: files are missing, or the cohort cannot be split.
        OutputError: `out` holds slides of the cohort.
        RunError: `out` is not empty, too few slides can be read, or the logger is not installed.
        StoreError: stored features do not fit the settings, or the cache cannot be written.
    """
    # In a worker, the run is there already, and its bars would not be seen.
    rebuild = partial(
        prepare_training,
        *(cohort, settings, out),
        features=features,
        cache=cache,
        device=device,
        workers=workers,
        resume=True,
        progress=False,
        skip_unreadable=skip_unreadable,
        unreadable=unreadable,
    )
    require_logger(settings.train.logger)
    # Commands with folds share a folder at any time; a run with other settings is refused below.
    resume = resume or (has_folds(cohort, settings.train) and any(out.glob("fold-[0-9]*")))
    torch_device = choose_device(device)
    if checked is None:  # in one of several processes, it is the device of that process
        refuse_missing_devices(settings.train.devices, torch_device)
    settings = replace(settings, train=replace(settings.train, labels=cohort.labels or None))
    task = prepared_task(settings.train.build_task(), cohort)
    refuse_unknown_strata(cohort, settings.train)
    if features is not None and settings.encoder is None:
        refuse_features(features)
    folder = None if features is None else open_features(features, cohort.slides)
    if folder is not None:
        settings = follow_features(settings, folder)
    require_covariates(settings)
    _check_unit(cohort, settings.train)
    planned = make_splits(cohort, settings.train)
    if len(planned) > 1:
        every = entries_of(Unit(settings.train.per), cohort.slides, cohort.source.name)
        task = shared_by_folds(task, every)
    if not skip_unreadable:  # else the splits may change
        refuse_unusable_columns(cohort, planned, settings.train, task)
        refuse_unusable_teacher(settings, task, planned, out)
    refuse_slide_folder(out, (slide.path for slide in cohort.slides))
    refuse_used(out, resume=resume or is_at_work(out), folds=len(planned) > 1)
    threads = workers or reading_threads()
    inputs = _open_inputs(settings, folder, cache, torch_device, threads)
    checks = SlideChecks(inputs, threads, unreadable or {}, dict(checked or {}))
    left_out = _recorded_left_out(out) if resume else None
    if left_out is None:
        left_out = _find_left_out(out, cohort, settings, checks) if skip_unreadable else {}
    remaining = without_slides(cohort, left_out)
    if not skip_unreadable:
        files = ((slide, file) for slide in remaining.slides for file in inputs.source_files(slide))
        kind = "slide file" if folder is None else "feature file"
        require_files(cohort.source, files, kind)
    if settings.model.traits.takes != "nothing":
        refuse_copies(remaining, folder)
    splits = _split_remaining(remaining, settings.train, left_out)
    folders = [out] if len(splits) == 1 else [out / f"fold-{n}" for n in range(len(splits))]
    runs = [
        TrainingRun(
            RunFolder(run_folder, RunClaim(claim)),
            split,
            settings,
            task.fitted(entries_of(Unit(settings.train.per), split.train, remaining.source.name)),
            inputs,
            folder,
            torch_device,
            progress,
            checks,
            left_out,
            skip_unreadable,
        )
        for split, run_folder in zip(splits, folders, strict=True)
    ]
    for run in runs:  # check every fold before the first epoch
        _check_run(run, out, resume=resume)
    if folder is not None:
        log_true_resolutions(folder, settings.slide.magnifications)
    return PreparedTraining(out, tuple(runs), quiet=progress, rebuild=rebuild)


def has_folds(cohort: Cohort, settings: TrainSettings) -> bool:
    """Return whether a training has a run for each fold."""
    given = any(slide.fold is not None or slide.fold_parts for slide in cohort.slides)
    return settings.folds is not None or given


def _check_run(run: TrainingRun, out: Path, *, resume: bool) -> None:
    """Check that a run can start, or be continued if another process has begun it meanwhile."""
    try:
        run.check(resume=resume or is_at_work(out))
    except RunError:
        if resume or not is_at_work(out):
            raise
        run.check(resume=True)


def _recorded_left_out(out: Path) -> dict[str, str] | None:
    """Return the slides that the run in a folder left out before its split; None if no run is."""
    for folder in (out, *sorted(out.glob("fold-[0-9]*"))):
        left_out = read_left_out(folder)
        if left_out is not None:
            return left_out
    return None


def _find_left_out(
    out: Path, cohort: Cohort, settings: RunSettings, checks: SlideChecks
) -> dict[str, str]:
    """Return the reason of each slide of a cohort that cannot be read, by slide id."""
    needs_outlines = settings.model.traits.needs_outlines
    lesions = Lesions.of_slides(cohort.slides) if needs_outlines else None
    left_out = checks.find_unreadable(out, cohort.slides, lesions)
    log_left_out(left_out)
    return left_out


def _check_unit(cohort: Cohort, settings: TrainSettings) -> None:
    """Raise if slides of a patient contradict each other, or covariates were not read.

    Raises:
        CohortError: see above.
    """
    missing = set(covariate_columns(settings.covariates)) - set(cohort.slides[0].values)
    if missing:
        raise CohortError(
            f"{cohort.source.name}: the covariates {', '.join(sorted(missing))} were not read; "
            "read the cohort with these columns (`read_cohort(..., columns=...)`)."
        )
    if settings.per == "patient":
        group_patients(cohort)


def make_splits(cohort: Cohort, settings: TrainSettings) -> tuple[Split, ...]:
    """Split a cohort into training, validation and test slides, once or once per fold.

    Args:
        cohort: labeled slides.
        settings: training settings.

    Raises:
        CohortError: the cohort cannot be split, for example because a class has too few patients.
    """
    if not has_folds(cohort, settings):
        return (
            split_cohort(
                cohort,
                val_fraction=settings.val_fraction,
                test_fraction=settings.test_fraction,
                seed=settings.seed,
            ),
        )
    return fold_cohort(
        cohort, settings.folds, val_fraction=settings.val_fraction, seed=settings.seed
    )


def _split_remaining(
    remaining: Cohort, settings: TrainSettings, left_out: Mapping[str, str]
) -> tuple[Split, ...]:
    """Split the slides that can be read; an error names those that are left out."""
    try:
        return make_splits(remaining, settings)
    except CohortError as error:
        if not left_out:
            raise
        slide_id, reason = next(iter(left_out.items()))
        total = len(remaining.slides) + len(left_out)
        raise RunError(
            f"{error} {len(left_out)} of {total} slides were left out, because they cannot be "
            f"read; the first is {slide_id} ({reason.rstrip('.')})."
        ) from None


def _open_inputs(
    settings: RunSettings,
    features: FeatureFolder | None,
    cache: Path | None,
    device: torch.device,
    threads: int,
) -> Inputs:
    """Return the object that opens the slides of the cohort for the model."""
    if settings.model.traits.takes == "nothing":
        return NoInputs()
    encoder = settings.encoder
    inputs = cohort_inputs(
        settings.slide,
        None
        if encoder is None
        else partial(
            load_encoders,
            encoder,
            settings.slide.magnifications,
            device=str(device),
            patch_size=settings.slide.patch_size,
        ),
        features=features,
        skip_unavailable_magnifications=settings.model.skip_unavailable_magnifications,
        cache=cache,
        device=device,
        threads=threads,
    )
    if encoder is not None and features is not None:
        _check_stored_encoders(settings, encoder, inputs.encoders, features)
    elif encoder is not None and cache is None:
        logger.info("no feature cache (--cache): every epoch encodes its patches again")
    return inputs


def _check_stored_encoders(
    settings: RunSettings,
    encoder: EncoderSettings,
    stored: Sequence[EncoderSpec],
    features: FeatureFolder,
) -> None:
    """Raise if stored features come from other encoders than those in the settings."""
    magnifications = settings.slide.magnifications
    made_by = encoder_text([each.name for each in stored], magnifications)
    names = [canonical_name(encoder.name_at(each)) for each in magnifications]
    named = encoder_text(names, magnifications)
    if made_by != named:
        raise MixedFeaturesError(
            f"{features}: the features were made by encoder {made_by}, and the settings name "
            f"{named}; give --encoder {made_by} (encoder.name), or extract again."
        )
    for magnification in magnifications:
        weights = encoder.weights_at(magnification)
        if weights is not None:
            check_exists(weights, folder=True)  # prediction will need it
    mpps = [mpp_of(magnification) for magnification in magnifications]
    warn_outside_range(stored, mpps)
    warn_of_patch_size(stored, mpps, settings.slide.patch_size)
