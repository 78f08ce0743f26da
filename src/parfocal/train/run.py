"""Training: a cohort -> a run folder whose model needs nothing else to predict."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import safetensors.torch
import torch

from parfocal.dataset.cohort import Cohort, CohortSlide, require_files
from parfocal.dataset.inputs import Inputs, LiveBags, StoredBags
from parfocal.dataset.leakage import fingerprint
from parfocal.dataset.pixels import LivePixels
from parfocal.dataset.split import Split, fold_cohort, split_cohort, split_table
from parfocal.encoders.encoder import choose_device, load_encoder
from parfocal.encoders.weights import check_exists
from parfocal.explain.report import beside_results, write_report
from parfocal.features.cache import FeatureCache
from parfocal.features.errors import MixedFeaturesError, StoreError
from parfocal.features.live import reading_threads
from parfocal.features.pixel_cache import PixelCache
from parfocal.models.checkpoint import Checkpoint, Training, build_model
from parfocal.settings import RunSettings, TrainSettings
from parfocal.slide.errors import SlideError
from parfocal.train.folder import (
    RunError,
    RunFolder,
    RunSummary,
    refuse_too_few,
    refuse_used,
    several,
)
from parfocal.train.trainer import fit
from parfocal.train.training_module import TrainingModule
from parfocal.train.warm_start import continued, load_start, take_weights

logger = logging.getLogger(__name__)


def train(
    cohort: Cohort,
    settings: RunSettings,
    out: Path,
    *,
    features: Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> RunSummary:
    """Train a model on a cohort, and write a run folder (see `parfocal.train.folder`).

    With `settings.train.folds`, or where the cohort names folds, one for each: `out/fold-0`...

    Args:
        cohort: the slides, read with `labels=settings.train.labels`.
        settings: of the run.
        out: the run folder; there must be nothing in it unless `resume`.
        features: folder of stored features; None to read slides as the model zooms.
        cache: folder to keep live features in between epochs and runs.
        device: "auto", "cpu", "cuda" or "cuda:1"; encoder and model are on it.
        workers: threads that read slides; None for one for each core, up to 8.
        resume: go on with what is in `out`, from the last whole epoch.
        progress: show a bar, where there is a terminal; else an epoch is a line in the log.

    Raises:
        CohortError: files are missing, or the cohort cannot be divided as asked.
        RunError: `out` holds another run, or too few slides can be read.
        StoreError: stored features are not those asked for, or the cache cannot be written.
        KeyboardInterrupt: Ctrl-C; `resume` goes on from the last whole epoch.
    """
    place = choose_device(device)
    settings = replace(settings, train=replace(settings.train, labels=cohort.labels))
    _check_strata(cohort, settings.train)
    splits = splits_of(cohort, settings.train)
    refuse_used(out, resume=resume)
    threads = workers or reading_threads()
    bags = _bags(settings, features, cache, place, threads)
    needed = ((slide, bags.needs(slide)) for slide in cohort.slides)
    require_files(cohort.source, needed, "slide files" if features is None else "feature files")
    folds = [out / f"fold-{number}" for number in range(len(splits))]
    runs = [
        Run(RunFolder(folder), split, settings, bags, features, place, threads, progress).train(
            resume=resume
        )
        for split, folder in zip(splits, [out] if len(splits) == 1 else folds, strict=True)
    ]
    summary = runs[0] if len(runs) == 1 else several(out, runs)
    page = out / "report.html"
    with beside_results(page, again=f"parfocal report {out} --out {page}"):
        write_report((out,), page)
    return summary


@runtime_checkable
class Pretrained(Protocol):
    """A model with networks of its own, which were trained before."""

    def load_pretrained(self) -> None:
        """Take the published weights."""


@dataclass(frozen=True)
class Run:
    """One run folder, and what fills it."""

    folder: RunFolder
    split: Split
    settings: RunSettings
    bags: Inputs
    features: Path | None
    device: torch.device
    workers: int
    progress: bool

    def train(self, *, resume: bool) -> RunSummary:
        """Fill the folder, or go on filling it."""
        told = self.settings.to_yaml(), split_table(self.split)
        self.folder.check(*told, resume=resume)
        if self.folder.finished:
            logger.info("%s: finished already", self.folder.path)
            self.folder.forget()
            return self.folder.read_summary()
        unread = self._unreadable()
        lesson = self._lesson("metrics", unread)
        self.folder.claim(*told)  # a run that is refused above leaves no folder in the way
        fit(lesson, self.settings.train.epochs, self.device, progress=self.progress)
        lessons = [lesson]
        if self.settings.train.refit:
            lessons.append(self._lesson("refit", {**unread, **lesson.failed}, after=lesson))
            fit(lessons[1], lesson.best.epoch, self.device, progress=self.progress)
        summary = _summary(self.folder.path, lessons, unread)
        self.folder.finish(summary)
        self._checkpoint(lessons, unread).save(self.folder.path)
        self.folder.forget()
        return summary

    @property
    def used(self) -> Split:
        """The slides, without those of strata that are left out of training."""
        left_out = self.settings.train.exclude_strata
        train, val = (
            tuple(slide for slide in part if slide.stratum not in left_out)
            for part in (self.split.train, self.split.val)
        )
        return Split(train, val, self.split.test)

    def _unreadable(self) -> dict[str, str]:
        """Find out which slides cannot be used before training, not in the middle of it."""
        slides = (*self.used.train, *self.used.val)
        logger.info("%s: checking %d slides", self.folder.path, len(slides))
        with ThreadPoolExecutor(self.workers) as pool:
            reasons = list(pool.map(self._reason, slides))
        return {slide.slide_id: why for slide, why in zip(slides, reasons, strict=True) if why}

    def _reason(self, slide: CohortSlide) -> str | None:
        try:
            self.bags.check(slide)
        except MixedFeaturesError:
            raise
        except (SlideError, StoreError) as error:
            logger.warning("slide %s is left out: %s", slide.slide_id, error)
            return str(error)
        return None

    @cached_property
    def start(self) -> Checkpoint | None:
        """The trained model that this one starts from, if any."""
        return load_start(self.settings, self.labels, self.bags.encoder)

    def _lesson(
        self, name: str, failed: dict[str, str], *, after: TrainingModule | None = None
    ) -> TrainingModule:
        """Make an untrained model and its slides; after another, it learns from all of them."""
        train, val = self.used.train, self.used.val
        if after is not None:
            train, val = (*train, *val), ()
        refuse_too_few(train, val, failed, self.labels)
        generator = torch.Generator().manual_seed(self.settings.train.seed)
        draws = {"generator": generator} if self.settings.model.takes("generator") else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.train.seed)
            model = build_model(self.settings.model.name, {**self._model_settings(), **draws})
            if isinstance(model, Pretrained):
                model.load_pretrained()
            if self.start is not None:
                take_weights(model, self.start)
        return TrainingModule(
            model,
            self.bags,
            self.folder,
            self.settings.train,
            name=name,
            seen=[slide for slide in train if slide.slide_id not in failed],
            shown=[slide for slide in val if slide.slide_id not in failed],
            generator=generator,
            rates=None if after is None else [epoch.learning_rate for epoch in after.history],
        )

    def _checkpoint(self, lessons: list[TrainingModule], unread: dict[str, str]) -> Checkpoint:
        """Put the best weights, or those of the refit, together with all that explains them."""
        model = lessons[-1].model.cpu()
        if len(lessons) == 1:
            model.load_state_dict(safetensors.torch.load_file(lessons[0].best_file))
        # One that failed in the middle of it may have been learned from before.
        used = {
            "train": [slide for slide in self.used.train if slide.slide_id not in unread],
            "val": [slide for slide in self.used.val if slide.slide_id not in unread],
        }
        training = Training(
            seed=self.settings.train.seed,
            epoch=lessons[0].best.epoch,
            slides={part: [slide.slide_id for slide in used[part]] for part in used},
            patients={part: sorted({slide.patient_id for slide in used[part]}) for part in used},
            refit=len(lessons) > 1,
            fingerprints=self._fingerprints((*used["train"], *used["val"])),
        )
        encoder = self.settings.encoder
        weights = None if encoder is None else encoder.weights
        return Checkpoint(
            model=model,
            model_name=self.settings.model.name,
            model_settings=self._model_settings(),
            labels=self.labels,
            encoder=self.bags.encoder,
            slide=self.settings.slide,
            training=training if self.start is None else continued(training, self.start.training),
            encoder_weights=None if weights is None else weights.absolute(),
        )

    def _fingerprints(self, slides: Iterable[CohortSlide]) -> dict[str, str]:
        """Tell the files by which slides are known again; those of other cohorts may share ids."""
        found = ((slide.slide_id, fingerprint(slide, self.features)) for slide in slides)
        return {slide_id: told for slide_id, told in found if told is not None}

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the logits."""
        return self.settings.train.labels or ()

    def _model_settings(self) -> dict[str, Any]:
        """Give the arguments the model can be built with again."""
        encoder = self.bags.encoder
        return self.settings.model_arguments(
            in_dim=0 if encoder is None else encoder.dim,
            num_classes=len(self.labels),
            num_slides=len(self.used.train) + len(self.used.val),
        )


def _check_strata(cohort: Cohort, settings: TrainSettings) -> None:
    """Refuse to leave out what is not there."""
    known = sorted({slide.stratum for slide in cohort.slides if slide.stratum})
    for stratum in settings.exclude_strata:
        if stratum not in known:
            raise RunError(
                f"{cohort.source.name}: train.exclude_strata: no slide is of stratum {stratum!r} "
                f"(there are: {', '.join(known) or 'none'}); correct it or leave it out."
            )


def splits_of(cohort: Cohort, settings: TrainSettings) -> tuple[Split, ...]:
    """Divide a cohort as a training does: once, or once for each fold.

    Raises:
        CohortError: it cannot be divided as asked.
    """
    if settings.folds is None and all(slide.fold is None for slide in cohort.slides):
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


def _bags(
    settings: RunSettings,
    features: Path | None,
    cache: Path | None,
    device: torch.device,
    threads: int,
) -> Inputs:
    wanted = settings.encoder
    if wanted is None:
        return _pixels(settings, features, cache, threads)
    if features is not None:
        stored = StoredBags(features, settings.slide, device=device)
        if stored.encoder.name != wanted.name:
            raise MixedFeaturesError(
                f"{features}: the features were made by {stored.encoder.name}, and encoder "
                f"{wanted.name} is asked for; ask for {stored.encoder.name}, or extract again."
            )
        if wanted.weights is not None:
            check_exists(wanted.weights)  # predictions will need it
        return stored
    encoder = load_encoder(
        wanted.name, device=str(device), weights=wanted.weights, runtime=wanted.runtime
    )
    shelf = None if cache is None else FeatureCache(cache)
    if shelf is None:
        logger.info("no feature cache: every epoch encodes again what it looks at")
    return LiveBags(encoder, settings.slide, cache=shelf, threads=threads)


def _pixels(
    settings: RunSettings, features: Path | None, cache: Path | None, threads: int
) -> LivePixels:
    if features is not None:
        raise RunError(
            f"{features}: model {settings.model.name} encodes by itself, so it cannot learn from "
            "stored features; leave --features out."
        )
    shelf = None if cache is None else PixelCache(cache)
    return LivePixels(
        settings.slide,
        skip_unavailable_magnifications=settings.model.skip_unavailable_magnifications,
        cache=shelf,
        threads=threads,
    )


def _summary(out: Path, lessons: list[TrainingModule], unread: dict[str, str]) -> RunSummary:
    best, epochs = lessons[0].best, [epoch for lesson in lessons for epoch in lesson.history]
    failed = dict(unread)
    for lesson in lessons:
        failed.update(lesson.failed)
    assert best.val_loss is not None
    assert best.val_weighted_f1 is not None
    return RunSummary(
        out=out,
        best_epoch=best.epoch,
        epochs=len(epochs),
        val_loss=best.val_loss,
        val_weighted_f1=best.val_weighted_f1,
        val_auroc=best.val_auroc,
        patches_encoded=sum(epoch.patches_encoded for epoch in epochs),
        seconds=sum(epoch.seconds for epoch in epochs),
        failed=failed,
    )
