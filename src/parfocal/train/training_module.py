"""The Lightning module that trains a model.

All random draws of an epoch are seeded with (seed, epoch), and the state is saved after every
epoch, so resuming an interrupted run gives the same model as an uninterrupted one.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import mean
from typing import Any

import pytorch_lightning as pl
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import Inputs, ReadsAhead
from parfocal.dataset.lesions import Lesions
from parfocal.dataset.sampler import BalancedSampler, ShuffledSampler, epoch_seed
from parfocal.distribute.stopping import raise_if_stopped, stop_requested
from parfocal.files import write_whole
from parfocal.models.contract import (
    Adversarial,
    Loss,
    ModelTraits,
    PatchSupervision,
    ProgressAware,
    training_loss,
)
from parfocal.models.layers.passes import Passes
from parfocal.models.layers.shared_norm import share_statistics
from parfocal.prediction import Prediction
from parfocal.settings import TrainSettings
from parfocal.tasks import Task
from parfocal.train.batch import BatchRunner
from parfocal.train.batches import DealtBatches, batches_of
from parfocal.train.checks import refuse_missing_outlines, refuse_too_few
from parfocal.train.epoch_share import EpochShare, joined_share
from parfocal.train.folder import RunError, RunFolder
from parfocal.train.joint_step import JointStep
from parfocal.train.memory import MemoryPlan
from parfocal.train.operating_point import VALIDATION_FILE, ValidationTable, is_requested
from parfocal.train.optimizer import PlateauSchedule, build_optimizer, scheduled_rates
from parfocal.train.ranks import ALONE, Ranks
from parfocal.train.read_ahead import ReadAheadLoader
from parfocal.train.selection import can_select
from parfocal.train.summary import Epoch, best_epoch
from parfocal.train.validation import ValidationOutput, validation_metrics, validation_values

logger = logging.getLogger(__name__)

# How to continue a training on several devices without a slide.
ONE_DEVICE = "--resume --skip-unreadable --devices 1"

Batches = DataLoader[list[int]] | DealtBatches | ReadAheadLoader


class TrainingModule(pl.LightningModule):
    """Trains a model on the slides of a cohort.

    Args:
        model: model to train.
        traits: traits of the model.
        inputs: opens the slides.
        folder: run folder.
        settings: training settings.
        task: what the model predicts.
        name: name of the metrics file and of the state file, "metrics" or "refit".
        train_slides: training slides.
        val_slides: validation slides; empty in a refit.
        generator: random generator of the model and the augmentation; seeded for each epoch.
        learning_rates: learning rate of each epoch of a refit; None for the schedule of the
            settings.
        lesions: outlines of the training slides, for a model that is trained on them.
        skip_unreadable: whether to continue without slides that turn out to be unreadable.
        memory_plan: how the batches are run to fit into memory; None if the model does not
            run in passes.
        ranks: the processes that train the model together.

    Raises:
        RunError: the model needs outlines, and a training slide has none.
    """

    def __init__(
        self,
        model: nn.Module,
        traits: ModelTraits,
        inputs: Inputs,
        folder: RunFolder,
        settings: TrainSettings,
        *,
        task: Task,
        name: str,
        train_slides: Sequence[CohortSlide],
        val_slides: Sequence[CohortSlide],
        generator: torch.Generator,
        learning_rates: Sequence[float] | None,
        memory_plan: MemoryPlan | None = None,
        lesions: Lesions | None = None,
        skip_unreadable: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.memory_plan, self.ranks = memory_plan, ranks
        # Whether each batch is divided among the processes, or those of a step are dealt to them.
        self.divides_batches = ranks.are_several and traits.takes_pixels
        if self.divides_batches:
            share_statistics(model, ranks.total)
        self.model, self.traits, self.settings = model, traits, settings
        self.folder, self.name = folder, name
        self.train_slides, self.val_slides = train_slides, val_slides
        self.generator, self.is_refit = generator, learning_rates is not None
        self.learning_rates = (
            scheduled_rates(settings) if learning_rates is None else learning_rates
        )
        self.task = task
        self.runner = BatchRunner(
            model,
            traits,
            inputs,
            task,
            settings.augment,
            generator,
            lesions,
            skip_unreadable and not self.divides_batches,
            random_budgets=settings.random_budgets,
        )
        if self.divides_batches:  # the other processes wait for the slide
            self.runner.without_slide, self.runner.alone = ONE_DEVICE, ranks.alone
        self.history: list[Epoch] = []
        self.state_file = folder.resume_file(f"{name}.ckpt")
        self.best_file = folder.resume_file("best.safetensors")
        self.selects = not val_slides or can_select(task, val_slides)
        if traits.needs_outlines:
            assert isinstance(model, PatchSupervision)
            refuse_missing_outlines(train_slides, task.classes[model.negative_class])

    @property
    def best(self) -> Epoch:
        """The best epoch by validation; the last one if validation cannot measure the loss."""
        return best_epoch(self.history) if self.selects else self.history[-1]

    @property
    def failed(self) -> dict[str, str]:
        """Reason of each slide that could not be read, by slide id."""
        return self.runner.failed

    def train_dataloader(self) -> Batches:
        """Return batches of positions in `train_slides`, drawn again for each epoch."""
        # After a resume, Lightning's current_epoch is not yet restored when this is called.
        kind = BalancedSampler if self.task.classes else ShuffledSampler
        sampler = kind(
            self.train_slides,
            seed=self.settings.seed,
            epoch=lambda: len(self.history),
            excluded=self.failed,
        )
        return self._batches(self.train_slides, sampler)

    def val_dataloader(self) -> Batches:
        """Return batches of positions in `val_slides`."""
        return self._batches(self.val_slides)

    def _batches(
        self,
        slides: Sequence[CohortSlide],
        sampler: BalancedSampler | ShuffledSampler | None = None,
    ) -> Batches:
        """Return batches of positions in `slides`, which are read ahead if the inputs can do so."""
        size = self.settings.batch_size
        if self.task.compares_slides and sampler is not None:
            size = max(size, self.settings.risk_set)
        loader = batches_of(
            len(slides),
            size,
            sampler,
            ranks=self.ranks,
            dealt=None if self.divides_batches else self.settings.accumulate_grad_batches,
        )
        inputs = self.runner.inputs
        if not isinstance(inputs, ReadsAhead):
            return loader
        whole = not self.traits.zooms
        return ReadAheadLoader(loader, slides, inputs, self.failed, whole=whole)

    @property
    def accumulated_batches(self) -> int:
        """Number of batches of this process in a step of the optimizer."""
        count = self.settings.accumulate_grad_batches
        dealt = self.ranks.are_several and not self.divides_batches
        return -(-count // self.ranks.count) if dealt else count

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimizer, and bring the learning-rate schedule up to date after a resume."""
        optimizer = build_optimizer(self.model.parameters(), self.settings)
        # Not handed to Lightning, which would save its state before the step of the epoch.
        self._plateau = PlateauSchedule(optimizer, self.settings)
        for epoch in self.history:
            self._plateau.step(epoch, measured=self.selects)
        return optimizer

    def on_train_start(self) -> None:
        """Stop at once if all epochs were trained before the interruption."""
        self._stop_if_no_improvement()

    def on_train_epoch_start(self) -> None:
        """Seed all random draws of the epoch and reset its metrics."""
        seed = epoch_seed(self.settings.seed, self.current_epoch, self.ranks.rank)
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        if self.traits.follows_progress:
            assert isinstance(self.model, ProgressAware)
            self.model.set_progress(self.current_epoch / self.settings.epochs)
        if self.learning_rates is not None:
            self._optimizer.param_groups[0]["lr"] = self.learning_rates[self.current_epoch]
        self._train_losses: list[float] = []
        self._val_outputs: list[ValidationOutput] = []
        self.runner.patches_encoded, self._start_time = 0, time.perf_counter()

    def training_step(self, positions: list[int]) -> Tensor | None:
        """Return the loss of a batch; None if no slide of it can be read.

        None, too, if the loss compares slides and those of the batch cannot be compared.
        """
        if self.task.compares_slides:
            size = self.settings.batch_size
            loss, count = self._joint_step.compute(
                [positions[start : start + size] for start in range(0, len(positions), size)]
            )
        elif self.divides_batches:
            loss, count = self._divided_step(positions)
        else:
            prediction, targets = self._run_positions(positions)
            count = 0 if prediction is None else len(prediction.slides)
            loss = None if prediction is None else self._objective(prediction, targets)
        if loss is None:
            return None
        self._train_losses += [loss.item()] * count
        if not math.isfinite(self._train_losses[-1]):
            raise RunError(
                f"epoch {self.current_epoch + 1}: the loss is {self._train_losses[-1]}; lower "
                f"train.learning_rate ({self.settings.learning_rate:g})."
            )
        # Lightning divides the loss by the number of batches of this process.
        share = self.accumulated_batches / self.settings.accumulate_grad_batches
        return loss if share == 1 else loss * share

    def _divided_step(self, positions: Sequence[int]) -> tuple[Tensor | None, int]:
        """Return the loss of a batch of which this process runs a part, and the size of the part.

        The loss is that of the whole batch; its gradient is that of the part.
        """
        own, loss = self.ranks.part(positions), None
        with self.ranks.working_on(len(positions)):
            if own:
                prediction, targets = self._run_positions(own)
                assert prediction is not None  # a slide that cannot be read ends the training
                loss = self._objective(*self.ranks.join(prediction, targets, len(positions)))
        if len(positions) < self.ranks.count:
            self.ranks.copy_buffers(self.model)
        return loss, len(own)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Sum the gradients over all processes."""
        if self.ranks.are_several:
            self.ranks.sum_gradients(self.model.parameters())

    def _run_positions(self, positions: Sequence[int]) -> tuple[Prediction | None, Tensor]:
        """Run the model on training slides."""
        if self.traits.adversarial and positions:
            assert isinstance(self.model, Adversarial)
            self.model.set_slide(positions[0])
        slides = [self.train_slides[position] for position in positions]
        return self.runner.run(slides, self.device)

    def _objective(
        self, prediction: Prediction, targets: Tensor, loss: Loss | None = None
    ) -> Tensor:
        """Return what training minimizes; with another loss than that of the task, if given."""
        loss = loss or self.task.loss
        return training_loss(self.model, self.traits, prediction, targets, loss)

    @property
    def _joint_step(self) -> JointStep:
        return JointStep(
            self.model, self._run_positions, self._objective, self.task.loss, (self.generator,)
        )

    def validation_step(self, positions: list[int]) -> None:
        """Run the model on a batch of validation slides."""
        slides = [self.val_slides[position] for position in positions]
        prediction, _ = self.runner.run(slides, self.device)
        if prediction is None:
            return
        read = self.runner.remaining(slides)
        self._val_outputs += [
            ValidationOutput(slide, each.logits.double().cpu(), self.task.encode(slide))
            for slide, each in zip(read, prediction.slides, strict=True)
        ]

    def on_train_epoch_end(self) -> None:
        """Write the metrics, the best weights, and the state for a resume."""
        self.folder.check_claim()
        is_stopping = self._exchange()
        refuse_too_few(self.train_slides, self.val_slides, self.failed, self.task.classes)
        epoch = self._epoch_metrics()
        self.history.append(epoch)
        self._log(epoch)
        self._plateau.step(epoch, measured=self.selects)
        if self.ranks.is_first:
            self._save(epoch)
        self._stop_if_no_improvement()
        if not self.trainer.should_stop and len(self.history) < (self.trainer.max_epochs or 0):
            finished = f"{self.folder.path} has {len(self.history)} complete epochs"
            raise_if_stopped(finished, requested=is_stopping)

    def _exchange(self) -> bool:
        """Join what all processes did in the epoch; return whether one of them has to stop."""
        joined = joined_share(
            self.ranks,
            EpochShare(
                self._train_losses,
                self._val_outputs,
                self.runner.patches_encoded,
                self.failed,
                stop_requested(),
            ),
            self.val_slides,
        )
        self._train_losses, self._val_outputs = list(joined.losses), list(joined.outputs)
        self.runner.patches_encoded = joined.patches_encoded
        self.failed.update(joined.failed)
        return joined.is_stopping

    def _save(self, epoch: Epoch) -> None:
        """Write the metrics, the weights if they are the best, and the state for a resume."""
        self.folder.write_epochs(self.name, self.history)
        if not self.is_refit and self.best is epoch:
            state = {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
            write_whole(self.best_file, safetensors.torch.save(state))
            if is_requested(self.settings):
                table = ValidationTable.of_outputs(self._val_outputs, self.task.output_names)
                write_whole(self.folder.resume_file(VALIDATION_FILE), table.to_bytes())
        self.trainer.save_checkpoint(self.state_file)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the metrics of all epochs and the failed slides to the state."""
        checkpoint["history"] = [asdict(epoch) for epoch in self.history]
        checkpoint["failed"] = self.failed
        if self.memory_plan is not None:
            checkpoint["passes"] = asdict(self.memory_plan.passes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the metrics of all epochs and the failed slides."""
        self.history = [Epoch(**epoch) for epoch in checkpoint["history"]]
        self.failed.update(checkpoint["failed"])
        if self.memory_plan is not None and "passes" in checkpoint:
            # The passes change the rounding, and a resumed run should give the same model.
            saved = replace(self.memory_plan, passes=Passes(**checkpoint["passes"]))
            if saved.fits:
                saved.apply(self.model)
                self.memory_plan = saved

    def _log(self, epoch: Epoch) -> None:
        for name, value in epoch.numbers.items():
            self.log(name, float(value))
        total = self.trainer.max_epochs
        logger.info("epoch %d of %d: %s", epoch.epoch, total, epoch.text)

    def _epoch_metrics(self) -> Epoch:
        metrics: dict[str, float | None] = {}
        if self.val_slides:
            metrics = validation_metrics(self._val_outputs, self.task)
        return Epoch(
            epoch=self.current_epoch + 1,  # Lightning counts from 0
            train_loss=mean(self._train_losses or [math.nan]),
            learning_rate=self._optimizer.param_groups[0]["lr"],
            patches_encoded=self.runner.patches_encoded,
            seconds=round(time.perf_counter() - self._start_time, 3),
            **validation_values(metrics, self.task),
        )

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _stop_if_no_improvement(self) -> None:
        if not self.is_refit and self.history:
            epochs_since_best = self.history[-1].epoch - self.best.epoch
            if epochs_since_best >= self.settings.patience:
                self.trainer.should_stop = True
