"""Train one model and write its run folder."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import safetensors.torch
import torch
from torch import nn

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import CountsPatches, Inputs
from parfocal.dataset.leakage import slide_fingerprint
from parfocal.dataset.lesions import Lesions
from parfocal.dataset.patients import name_patients
from parfocal.dataset.split import SPLIT_FILE, Split, split_to_csv
from parfocal.encoders.per_magnification import in_dim_of
from parfocal.features.folder import FeatureFolder
from parfocal.files import write_whole
from parfocal.models.checkpoint import Checkpoint, build_model
from parfocal.models.contract import Pretrained
from parfocal.models.provenance import TrainingProvenance
from parfocal.models.unit import Unit
from parfocal.operating_point import OperatingPoint
from parfocal.progress import draws_bars
from parfocal.settings import RunSettings
from parfocal.tasks import Task, stored_task
from parfocal.tasks.units import entries_of, fit_unit, training_entries_of, unit_inputs
from parfocal.train.bag_memory import refuse_large_bags
from parfocal.train.checks import log_left_out, refuse_too_few, refuse_unreadable
from parfocal.train.folder import RunError, RunFolder
from parfocal.train.joint_step import completed_task
from parfocal.train.memory import MemoryPlan, plan_memory
from parfocal.train.operating_point import (
    REFIT_NOTE,
    SHARED_NOTE,
    VALIDATION_FILE,
    ValidationTable,
    choose_operating_point,
    is_requested,
    refuse_impossible,
)
from parfocal.train.ranks import ALONE, Ranks
from parfocal.train.selection import warn_unmeasured
from parfocal.train.slide_checks import SlideChecks
from parfocal.train.small_bags import largest_bag, threads_for
from parfocal.train.sources import encoder_weights, feature_source
from parfocal.train.summary import RunSummary, summarize
from parfocal.train.teacher import load_teacher
from parfocal.train.trainer import fit
from parfocal.train.training_module import TrainingModule
from parfocal.train.warm_start import copy_weights, load_initial_model, merge_provenance
from parfocal.train.zoom_check import summarize_zoom

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingRun:
    """Trains one model and writes its run folder.

    Args:
        folder: run folder.
        split: training, validation and test slides.
        settings: settings of the run, with the class labels.
        task: what the model predicts, fitted to the training slides.
        inputs: opens the slides.
        features: folder of features; None if the slide files are read.
        device: device of the model.
        progress: whether to show a progress bar in a terminal.
        checks: checks that slides can be read.
        left_out: reason of each slide that was left out before the split, by slide id.
        skip_unreadable: whether to train without the slides that cannot be read.
        ranks: the processes that train the model together. The first one writes the files.
    """

    folder: RunFolder
    split: Split
    settings: RunSettings
    task: Task
    inputs: Inputs
    features: FeatureFolder | None
    device: torch.device
    progress: bool
    checks: SlideChecks
    left_out: Mapping[str, str]
    skip_unreadable: bool
    ranks: Ranks = ALONE

    def check(self, *, resume: bool) -> None:
        """Check that the run can start: its folder, and that its slides can be read.

        Args:
            resume: whether to continue the run in the folder.

        Raises:
            RunError: the folder cannot be used, or a slide cannot be read and `skip_unreadable`
                is False.
        """
        refuse_impossible(self.settings.train, self.task, self._used.val)
        self.folder.check(self.settings, split_to_csv(self.split), resume=resume)
        if self.folder.finished:
            return
        if not self.skip_unreadable:
            found = {key: why for key, why in self._unreadable.items() if key not in self.left_out}
            used = (*self._used.train, *self._used.val)
            if self._unit.per == "patient":
                found = name_patients(found, used)
            refuse_unreadable(found, len(used), self.features)
        val = [slide for slide in self._used.val if slide.slide_id not in self._unreadable]
        warn_unmeasured(self.folder.path, self.task, entries_of(self._unit, val, SPLIT_FILE))

    def train(self, *, resume: bool) -> RunSummary:
        """Train the model and write all files of the run folder.

        Args:
            resume: whether to continue the run in the folder.
        """
        self.folder.check(self.settings, split_to_csv(self.split), resume=resume)
        if self.folder.finished:
            logger.info("%s: already finished", self.folder.path)
            self.folder.remove_resume_files()
            return self.folder.read_summary()
        unreadable = {**self.left_out, **self._unreadable}
        modules = self._fit(unreadable)
        point = self._operating_point
        summary = replace(
            self._summarize(modules, unreadable),
            zoom=summarize_zoom(modules[0], self.device, exhaustive=self.features is not None),
            operating_point=None if point is None else point.summary,
        )
        self.folder.check_claim()
        self.folder.finish(summary)
        self._make_checkpoint(modules, unreadable).save(self.folder.path)
        self.folder.remove_resume_files()
        return summary

    def help_train(self) -> None:
        """Train the model together with the first process, which writes the files."""
        self._fit({**self.left_out, **self._unreadable})

    def _fit(self, unreadable: dict[str, str]) -> list[TrainingModule]:
        """Train the model, and the one on training and validation slides together, if requested.

        Args:
            unreadable: reason of each slide that is left out, by slide id.
        """
        module = self._build_module("metrics", unreadable)
        if self.ranks.is_first:  # only now: a refused run leaves no folder behind
            self.folder.start(self.settings, split_to_csv(self.split), self.left_out)
        bars = self.progress and (self.ranks.are_several or draws_bars())
        with threads_for(self._largest_bag(module.train_slides), self.device):
            fit(module, self.settings.train.epochs, self.device, progress=bars)
            modules = [module]
            if self.settings.train.refit:
                failed = {**unreadable, **module.failed}
                modules.append(self._build_module("refit", failed, refit_of=module))
                fit(modules[1], module.best.epoch, self.device, progress=bars)
        return modules

    def _largest_bag(self, slides: Sequence[CohortSlide]) -> float:
        """Return the number of features of the largest bag; infinite if it is unknown."""
        if not isinstance(self._unit_inputs, CountsPatches):
            return math.inf
        dims = [encoder.dim for encoder in self.inputs.encoders]
        return largest_bag(slides, self._unit_inputs, dims, zooms=self.settings.model.traits.zooms)

    @cached_property
    def _used(self) -> Split:
        """The split without the slides of excluded strata in training and validation."""
        excluded = self.settings.train.exclude_strata
        train, val = (
            tuple(slide for slide in part if slide.stratum not in excluded)
            for part in (self.split.train, self.split.val)
        )
        return Split(train, val, self.split.test)

    @cached_property
    def _initial_model(self) -> Checkpoint | None:
        """The trained model that this run starts from, if any."""
        return load_initial_model(self.settings, self._labels, self.inputs.encoders)

    @cached_property
    def _unit(self) -> Unit:
        """What the model makes one prediction for, with covariates as in the training slides."""
        settings = self.settings.train
        unit = Unit(settings.per, settings.fusion)
        return fit_unit(unit, settings.covariates, self._used.train)

    @cached_property
    def _unit_inputs(self) -> Inputs:
        """Opens what the model is trained on: slides or patients."""
        return unit_inputs(self.inputs, self._unit, self.task.classes)

    @property
    def _labels(self) -> tuple[str, ...]:
        """Names of the outputs: class labels in the order of the logits."""
        return self.task.output_names

    @cached_property
    def _lesions(self) -> Lesions | None:
        """Outlines of training and validation slides, for a model that is trained on them."""
        if not self.settings.model.traits.needs_outlines:
            return None
        return Lesions.of_slides((*self._used.train, *self._used.val))

    @cached_property
    def _unreadable(self) -> dict[str, str]:
        """Reason of each training and validation slide that cannot be read, by slide id."""
        slides = (*self._used.train, *self._used.val)
        found = self.checks.find_unreadable(self.folder.path, slides, self._lesions)
        self.checks.log_reach(self.folder.path, slides)
        if self.skip_unreadable:
            log_left_out(found)
        return found

    def _build_module(
        self, name: str, failed: dict[str, str], *, refit_of: TrainingModule | None = None
    ) -> TrainingModule:
        """Build an untrained model and its Lightning module.

        Args:
            name: name of the metrics file.
            failed: reason of each slide that is left out, by slide id.
            refit_of: trained module to refit on training and validation slides together.
        """
        train: Sequence[CohortSlide] = self._used.train
        val: Sequence[CohortSlide] = self._used.val
        if refit_of is not None:
            train, val = (*train, *val), ()
        refuse_too_few(train, val, failed, self.task.classes)
        train, val = (
            [slide for slide in part if slide.slide_id not in failed] for part in (train, val)
        )
        train = training_entries_of(self._unit, train, SPLIT_FILE)
        val = entries_of(self._unit, val, SPLIT_FILE)
        generator = torch.Generator().manual_seed(self.settings.train.seed)
        model = self._build_model(generator)
        rates = None if refit_of is None else [epoch.learning_rate for epoch in refit_of.history]
        return TrainingModule(
            model,
            self.settings.model.traits,
            self._unit_inputs,
            self.folder,
            self.settings.train,
            task=self.task,
            name=name,
            train_slides=train,
            val_slides=val,
            generator=generator,
            learning_rates=rates,
            lesions=self._lesions,
            skip_unreadable=self.skip_unreadable,
            memory_plan=self._plan_memory(model, train),
            ranks=self.ranks,
        )

    def _plan_memory(self, model: nn.Module, slides: Sequence[CohortSlide]) -> MemoryPlan | None:
        """Choose how to run the batches; return None if the model does not run in passes.

        Args:
            model: the model to train.
            slides: its training slides.

        Raises:
            RunError: a batch, or the stored features of a slide, do not fit into memory.
        """
        if isinstance(self._unit_inputs, CountsPatches):
            refuse_large_bags(
                slides,
                self._unit_inputs,
                lambda: self._build_model(torch.Generator().manual_seed(0)),
                in_dims=[encoder.dim for encoder in self.inputs.encoders],
                device=self.device,
                processes=self.ranks.count,
            )
        if not self.settings.model.traits.runs_in_passes:
            return None
        batch_size = min(len(slides), self.settings.train.batch_size)
        return plan_memory(
            model,
            self.settings.train,
            batch_size=-(-batch_size // self.ranks.count),
            device=self.device,
            processes=self.ranks.count,
        )

    def _build_model(self, generator: torch.Generator) -> nn.Module:
        traits = self.settings.model.traits
        arguments = self._model_arguments()
        if traits.random:
            arguments["generator"] = generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.train.seed)
            model = build_model(self.settings.model.name, arguments)
            self._unit.attach(model, len(self._labels))
            if traits.pretrained:
                assert isinstance(model, Pretrained)
                model.load_pretrained()
            if self._initial_model is not None:
                copy_weights(model, self._initial_model)
        self._load_teacher(model)
        return model

    def _load_teacher(self, model: nn.Module) -> Checkpoint | None:
        """Give a model the trained one that it learns from; return that, if there is one."""
        return load_teacher(
            self.settings,
            model,
            run=self.folder.path,
            labels=self._labels,
            encoders=self.inputs.encoders,
            split=self._used,
        )

    def _model_arguments(self) -> dict[str, Any]:
        """Return the arguments of the model that the checkpoint stores."""
        return self.settings.model_arguments(
            in_dim=in_dim_of(self.inputs.encoders),
            num_classes=len(self._labels),
            num_slides=len(self._used.train) + len(self._used.val),
        )

    def _summarize(self, modules: list[TrainingModule], unreadable: dict[str, str]) -> RunSummary:
        each = (unreadable, *(module.failed for module in modules))
        failed = {slide_id: reason for part in each for slide_id, reason in part.items()}
        epochs = [epoch for each in modules for epoch in each.history]
        return summarize(self.folder.path, modules[0].best, epochs, failed)

    def _make_checkpoint(
        self, modules: list[TrainingModule], unreadable: dict[str, str]
    ) -> Checkpoint:
        """Build the checkpoint from the weights of the best epoch, or of the refit."""
        model = modules[-1].model
        if len(modules) == 1:
            model.load_state_dict(safetensors.torch.load_file(modules[0].best_file))
        last = modules[-1]
        task = completed_task(last.task, last.train_slides, last.runner, self.device)
        model = model.cpu()
        return Checkpoint(
            model=model,
            model_name=self.settings.model.name,
            model_settings=self._model_arguments(),
            labels=self._labels,
            encoders=self.inputs.encoders,
            slide=self.settings.slide,
            training=self._provenance(modules, unreadable),
            encoder_weights=encoder_weights(self.settings),
            task=stored_task(task),
            unit=self._unit,
            operating_point=self._operating_point,
        )

    @cached_property
    def _operating_point(self) -> OperatingPoint | None:
        """The temperature and the thresholds, chosen on the validation slides; None without."""
        if not is_requested(self.settings.train):
            return None
        table = ValidationTable.read(self.folder.resume_file(VALIDATION_FILE))
        write_whole(self.folder.path / VALIDATION_FILE, table.to_bytes())
        note = REFIT_NOTE if self.settings.train.refit else SHARED_NOTE
        try:
            point = choose_operating_point(table, self.settings.train, note=note)
        except ValueError as error:  # slides that became unreadable in training
            raise RunError(
                f"{self.folder.path}: {error} left among the validation slides, so no threshold "
                "can be chosen; repair the slides, or give a number, such as --threshold 0.5."
            ) from None
        logger.debug("%s", point.summary)  # the command prints it
        return point

    def _provenance(
        self, modules: list[TrainingModule], unreadable: dict[str, str]
    ) -> TrainingProvenance:
        # Slides that failed later are included: the model may have been trained on them before.
        used = {
            part: [slide for slide in slides if slide.slide_id not in unreadable]
            for part, slides in (("train", self._used.train), ("val", self._used.val))
        }
        fingerprints = {
            slide.slide_id: slide_fingerprint(slide, self.features)
            for slide in (*used["train"], *used["val"])
        }
        provenance = TrainingProvenance(
            seed=self.settings.train.seed,
            epoch=modules[0].best.epoch,
            slides={part: [slide.slide_id for slide in used[part]] for part in used},
            patients={part: sorted({slide.patient_id for slide in used[part]}) for part in used},
            refit=len(modules) > 1,
            fingerprints={name: each for name, each in fingerprints.items() if each is not None},
            **feature_source(self.settings, self.features),
        )
        teacher = self._load_teacher(modules[-1].model)
        for other in (self._initial_model, teacher):
            if other is not None:
                provenance = merge_provenance(provenance, other.training)
        return provenance
