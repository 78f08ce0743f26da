"""Teaching a model its slides, with Lightning; nothing else imports it.

Whatever is drawn in an epoch is drawn from (seed, epoch), and the state is saved after each, so
a lesson that was stopped goes on as if it had not been.
"""

import logging
import math
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from statistics import mean
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import safetensors.torch
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset

from parfocal.bag import Prediction
from parfocal.dataset.bags import Bags
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.sampler import BalancedSampler, mixed_seed
from parfocal.features.errors import MixedFeaturesError, StoreError, UnwritableError
from parfocal.files import write_whole
from parfocal.metrics import Answers, weighted_scores
from parfocal.settings import TrainSettings
from parfocal.slide.errors import SlideError
from parfocal.train.folder import Epoch, RunError, RunFolder, best_of, refuse_too_few

logger = logging.getLogger(__name__)

# Lightning's warnings about what is meant here: one slide is a batch, and a failed one no loss.
MEANT = (
    r".*does not have many workers.*",
    r".*`training_step` returned `None`.*",
    r".*GPU available but not used.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # its own use of torch
)

SHOWN = ("train_loss", "val_loss", "val_weighted_f1")  # beside the progress bar

Objective = Callable[[Prediction, Tensor], Tensor]


@runtime_checkable
class Fading(Protocol):
    """A model that changes as training goes on."""

    def set_progress(self, fraction: float) -> None:
        """Say how much of the training is over, 0 to 1."""


class Bar(TQDMProgressBar):
    """One line an epoch, without Lightning's own version number."""

    def __init__(self) -> None:
        super().__init__(leave=True)

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Give what stands beside the bar."""
        return {
            name: value
            for name, value in super().get_metrics(trainer, pl_module).items()
            if name in SHOWN
        }


class Lesson(pl.LightningModule):
    """Teaches a model its slides, one at a time.

    Args:
        model: any that answers a bag with a prediction.
        bags: of the slides.
        folder: of the run.
        settings: of the training.
        name: of this lesson's files.
        seen: slides to learn from.
        shown: slides to choose the epoch by; none in a refit.
        labels: the classes, in the order of the logits.
        generator: of the model's draws.
        rates: learning rates by epoch, of a refit; None to lower it as the loss rests.
    """

    def __init__(
        self,
        model: nn.Module,
        bags: Bags,
        folder: RunFolder,
        settings: TrainSettings,
        *,
        name: str,
        seen: Sequence[CohortSlide],
        shown: Sequence[CohortSlide],
        generator: torch.Generator,
        rates: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.model, self.bags, self.folder, self.settings = model, bags, folder, settings
        self.name, self.seen, self.shown = name, seen, shown
        self.generator, self.rates = generator, rates
        self.labels = settings.labels or ()
        self.history: list[Epoch] = []
        self.failed: dict[str, str] = {}
        self.state_file = folder.resume_file(f"{name}.ckpt")
        self.best_file = folder.resume_file("best.safetensors")
        self._objective: Objective = getattr(model, "objective", cross_entropy)

    @property
    def best(self) -> Epoch:
        """The epoch of the highest weighted F1; of several, of the lowest loss."""
        return best_of(self.history)

    def train_dataloader(self) -> DataLoader[int]:
        """Give positions in `seen`, drawn anew each epoch."""
        # Lightning's own count is not yet right when it asks for the first slide after a resume.
        sampler = BalancedSampler(
            self.seen,
            seed=self.settings.seed,
            epoch=lambda: len(self.history),
            left_out=self.failed,
        )
        return _loader(len(self.seen), sampler)

    def val_dataloader(self) -> DataLoader[int]:
        """Give positions in `shown`."""
        return _loader(len(self.shown))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give Adam, and bring the schedule to where the history left it."""
        optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )
        # Not given to Lightning, which would save the state of an epoch before this step.
        self._plateau = ReduceLROnPlateau(
            optimizer, factor=self.settings.lr_factor, patience=self.settings.lr_patience
        )
        for epoch in self.history:
            self._step_schedule(epoch)
        return optimizer

    def on_train_start(self) -> None:
        """Stop at once where the run had ended but for its checkpoint."""
        self._stop_if_done()

    def on_train_epoch_start(self) -> None:
        """Seed all draws, and start counting."""
        torch.manual_seed(mixed_seed(self.settings.seed, self.current_epoch))
        self.generator.manual_seed(mixed_seed(self.settings.seed, self.current_epoch))
        if isinstance(self.model, Fading):
            self.model.set_progress(self.current_epoch / self.settings.epochs)
        if self.rates is not None:
            self._optimizer.param_groups[0]["lr"] = self.rates[self.current_epoch]
        self._losses: list[float] = []
        self._answers: list[tuple[Tensor, int]] = []
        self._patches, self._started = 0, time.perf_counter()

    def training_step(self, position: int) -> Tensor | None:
        """Learn from one slide; None where it cannot be read."""
        prediction, label = self._ask(self.seen[position])
        if prediction is None:
            return None
        loss = self._objective(prediction, label)
        self._losses.append(loss.item())
        if not math.isfinite(self._losses[-1]):
            raise RunError(
                f"epoch {self.current_epoch + 1}: the loss is {self._losses[-1]}; lower "
                f"train.learning_rate ({self.settings.learning_rate:g})."
            )
        return loss

    def validation_step(self, position: int) -> None:
        """Ask the model about one slide."""
        prediction, label = self._ask(self.shown[position])
        if prediction is not None:
            self._answers.append((prediction.logits.double().cpu(), int(label)))

    def on_train_epoch_end(self) -> None:
        """Write down the epoch, keep the best weights, and save the state to resume from."""
        refuse_too_few(self.seen, self.shown, self.failed, self.labels)
        epoch = self._epoch()
        self.history.append(epoch)
        self._log(epoch)
        self.folder.write_epochs(self.name, self.history)
        self._step_schedule(epoch)
        if self.rates is None and self.best is epoch:
            state = {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
            write_whole(self.best_file, safetensors.torch.save(state))
        self.trainer.save_checkpoint(self.state_file)
        self._stop_if_done()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to resume."""
        checkpoint["history"] = [asdict(epoch) for epoch in self.history]
        checkpoint["failed"] = self.failed

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self.history = [Epoch(**epoch) for epoch in checkpoint["history"]]
        self.failed.update(checkpoint["failed"])

    def _step_schedule(self, epoch: Epoch) -> None:
        if epoch.val_loss is not None:
            self._plateau.step(epoch.val_loss)

    def _log(self, epoch: Epoch) -> None:
        values = {name: value for name, value in asdict(epoch).items() if value is not None}
        del values["epoch"]  # Lightning's own
        for name, value in values.items():
            self.log(name, float(value), prog_bar=name in SHOWN)
        if self.trainer.progress_bar_callback is None:
            told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            logger.info("epoch %d of %d: %s", epoch.epoch + 1, self.settings.epochs, told)

    def _ask(self, slide: CohortSlide) -> tuple[Prediction | None, Tensor]:
        """Ask the model about a slide; None where it cannot be read, which is written down."""
        label = torch.tensor(self.labels.index(slide.label), device=self.device)
        if slide.slide_id in self.failed:
            return None, label
        try:
            with self.bags.open(slide) as opened:
                prediction: Prediction = self.model(opened.bag)
        except (UnwritableError, MixedFeaturesError):
            raise
        except (SlideError, StoreError) as error:
            logger.warning("slide %s is left out from here on: %s", slide.slide_id, error)
            self.failed[slide.slide_id] = str(error)
            return None, label
        self._patches += sum(opened.bill.close().patches)
        return prediction, label

    def _epoch(self) -> Epoch:
        scores: dict[str, float | None] = dict.fromkeys(("loss", "weighted_f1", "auroc"))
        if self.shown:
            scores = _scores(self._answers, self.labels)
        return Epoch(
            epoch=self.current_epoch,
            train_loss=mean(self._losses or [math.nan]),
            val_loss=scores["loss"],
            val_weighted_f1=scores["weighted_f1"],
            val_auroc=scores["auroc"],
            learning_rate=self._optimizer.param_groups[0]["lr"],
            patches_encoded=self._patches,
            seconds=round(time.perf_counter() - self._started, 3),
        )

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def _stop_if_done(self) -> None:
        if self.rates is None and self.history:
            waited = self.history[-1].epoch - self.best.epoch
            if waited >= self.settings.patience:
                self.trainer.should_stop = True


def fit(lesson: Lesson, epochs: int, device: torch.device, *, progress: bool) -> None:
    """Teach a lesson to its end, from where its state file says it was.

    Args:
        lesson: to be taught.
        epochs: at most.
        device: to teach it on.
        progress: show a bar, where there is a terminal; else an epoch is a line in the log.

    Raises:
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
    """
    progress = progress and sys.stdout.isatty()
    handler = signal.getsignal(signal.SIGINT)
    trainer_settings: dict[str, Any] = {
        "accelerator": device.type,
        "devices": 1 if device.index is None else [device.index],
        "max_epochs": epochs,
        "accumulate_grad_batches": lesson.settings.accumulate,
        "callbacks": [Bar()] if progress else [],
        "enable_progress_bar": progress,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": None if lesson.shown else 0,
        "log_every_n_steps": 1,
    }
    try:
        with _quiet_lightning(), torch.random.fork_rng(devices=[]):
            log = TensorBoardLogger(lesson.folder.path, "tensorboard", lesson.name)
            state = lesson.state_file if lesson.state_file.exists() else None
            trainer = pl.Trainer(**trainer_settings, logger=log)
            trainer.fit(lesson, ckpt_path=state, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C, which it then ignores for good
        signal.signal(signal.SIGINT, handler)
        message = (
            f"{lesson.folder.path}: stopped; the same command with --resume goes on from the last "
            "whole epoch."
        )
        logger.warning(message)
        raise KeyboardInterrupt(message) from None


def cross_entropy(prediction: Prediction, label: Tensor) -> Tensor:
    """Give the loss of a model that has none of its own."""
    return F.cross_entropy(prediction.logits[None], label[None])


def _loader(slides: int, sampler: BalancedSampler | None = None) -> DataLoader[int]:
    return DataLoader(
        cast("Dataset[int]", range(slides)),
        batch_size=None,
        sampler=sampler,
        generator=torch.Generator(),  # it draws a number that it has no use for here
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning from telling of hardware and tips, and of what is meant to be so."""
    talkers = [logging.getLogger("pytorch_lightning"), logging.getLogger("lightning_fabric")]
    levels = [talker.level for talker in talkers]
    with warnings.catch_warnings():
        for message in MEANT:
            warnings.filterwarnings("ignore", message)
        for talker in talkers:
            talker.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for talker, level in zip(talkers, levels, strict=True):
                talker.setLevel(level)


def _scores(
    answers: Sequence[tuple[Tensor, int]], labels: tuple[str, ...]
) -> dict[str, float | None]:
    """Score what the model said of the validation slides: logits, and the true class."""
    logits = torch.stack([logits for logits, _ in answers])
    truth = torch.tensor([label for _, label in answers])
    whose = tuple(str(position) for position in range(len(answers)))
    scores = weighted_scores(
        Answers(labels, truth.numpy(), logits.softmax(dim=1).numpy(), whose),
        np.ones((1, len(answers))),
    )
    auroc = float(scores["auroc_macro"][0])
    return {
        "loss": float(F.cross_entropy(logits, truth)),
        "weighted_f1": float(scores["weighted_f1"][0]),
        "auroc": None if math.isnan(auroc) else auroc,
    }
