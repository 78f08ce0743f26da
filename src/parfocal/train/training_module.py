"""A lesson: what a model is taught, batch by batch, as Lightning asks for it.

Whatever is drawn in an epoch is drawn from (seed, epoch), and the state is saved after each, so
a lesson that was stopped goes on as if it had not been.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from statistics import mean
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import pytorch_lightning as pl
import safetensors.torch
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from parfocal.bag import Bag, PixelSource, Prediction, run_model
from parfocal.dataset.cohort import CohortSlide
from parfocal.dataset.inputs import Inputs
from parfocal.dataset.localization import touching_of
from parfocal.dataset.outlines import read_outlines
from parfocal.dataset.sampler import BalancedSampler, mixed_seed
from parfocal.features.errors import MixedFeaturesError, StoreError, UnwritableError
from parfocal.features.pixels import AugmentedSource
from parfocal.features.slide_input import SlideInput
from parfocal.files import write_whole
from parfocal.metrics import METRICS, Answers, weighted_scores
from parfocal.settings import TrainSettings
from parfocal.slide.errors import SlideError
from parfocal.train.folder import Epoch, RunError, RunFolder, best_of, refuse_too_few
from parfocal.train.optimizer import Plateau, optimizer_of, planned_rates

logger = logging.getLogger(__name__)

# What the log line of an epoch and the progress bar show: column of metrics.csv -> label.
LOGGED = {
    "train_loss": "loss",
    "val_loss": "validation loss",
    "val_weighted_f1": METRICS["weighted_f1"],
    "val_auroc": METRICS["auroc_macro"],
}

Objective = Callable[[Prediction, Tensor], Tensor]


@runtime_checkable
class ProgressAware(Protocol):
    """A model that changes as training goes on."""

    def set_progress(self, fraction: float) -> None:
        """Say how much of the training is over, 0 to 1."""


@runtime_checkable
class Adversarial(Protocol):
    """A model that is told which slide it learns from, and learns to hide it."""

    def set_slide(self, slide: int) -> None:
        """Say which of the slides to learn from comes next, counted from 0."""


@runtime_checkable
class TaughtByOutlines(Protocol):
    """A model that learns which patches touch a lesion; of each prediction it is told `touching`.

    `negative_class` is the position of the label of slides without a lesion.
    """

    negative_class: int


class TrainingModule(pl.LightningModule):
    """Teaches a model its slides, batch by batch.

    Args:
        model: any that answers a bag, or sources of pixels, with a prediction.
        bags: what opens the slides.
        folder: of the run.
        settings: of the training.
        name: of this lesson's files.
        seen: slides to learn from.
        shown: slides to choose the epoch by; none in a refit.
        labels: the classes, in the order of the logits.
        generator: of the model's draws.
        rates: learning rates by epoch, of a refit; None for the schedule of the settings.
    """

    def __init__(
        self,
        model: nn.Module,
        bags: Inputs,
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
        self.generator, self.refit = generator, rates is not None
        self.rates = planned_rates(settings) if rates is None else rates
        self.labels = settings.labels or ()
        self.history: list[Epoch] = []
        self.failed: dict[str, str] = {}
        self.state_file = folder.resume_file(f"{name}.ckpt")
        self.best_file = folder.resume_file("best.safetensors")
        if isinstance(model, TaughtByOutlines):
            _refuse_without_outlines(seen, self.labels[model.negative_class])
        self._objective: Objective = getattr(model, "objective", cross_entropy)

    @property
    def best(self) -> Epoch:
        """The epoch of the highest weighted F1; of several, of the lowest loss."""
        return best_of(self.history)

    def train_dataloader(self) -> DataLoader[list[int]]:
        """Give batches of positions in `seen`, drawn anew each epoch."""
        # Lightning's own count is not yet right when it asks for the first slide after a resume.
        sampler = BalancedSampler(
            self.seen,
            seed=self.settings.seed,
            epoch=lambda: len(self.history),
            left_out=self.failed,
        )
        return _loader(len(self.seen), self.settings.batch_size, sampler)

    def val_dataloader(self) -> DataLoader[list[int]]:
        """Give batches of positions in `shown`."""
        return _loader(len(self.shown), self.settings.batch_size)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give the optimizer, and bring the schedule to where the history left it."""
        optimizer = optimizer_of(self.model.parameters(), self.settings)
        # Not given to Lightning, which would save the state of an epoch before this step.
        self._plateau = Plateau(optimizer, self.settings)
        for epoch in self.history:
            self._plateau.step(epoch)
        return optimizer

    def on_train_start(self) -> None:
        """Stop at once where the run had ended but for its checkpoint."""
        self._stop_if_done()

    def on_train_epoch_start(self) -> None:
        """Seed all draws, and start counting."""
        torch.manual_seed(mixed_seed(self.settings.seed, self.current_epoch))
        self.generator.manual_seed(mixed_seed(self.settings.seed, self.current_epoch))
        if isinstance(self.model, ProgressAware):
            self.model.set_progress(self.current_epoch / self.settings.epochs)
        if self.rates is not None:
            self._optimizer.param_groups[0]["lr"] = self.rates[self.current_epoch]
        self._losses: list[float] = []
        self._answers: list[tuple[Tensor, int]] = []
        self._patches, self._started = 0, time.perf_counter()

    def training_step(self, positions: list[int]) -> Tensor | None:
        """Learn from a batch; None where nothing of it can be read."""
        if isinstance(self.model, Adversarial):
            self.model.set_slide(positions[0])
        prediction, labels = self._ask([self.seen[position] for position in positions])
        if prediction is None:
            return None
        loss = self._objective(prediction, labels)
        self._losses += [loss.item()] * labels.numel()
        if not math.isfinite(self._losses[-1]):
            raise RunError(
                f"epoch {self.current_epoch + 1}: the loss is {self._losses[-1]}; lower "
                f"train.learning_rate ({self.settings.learning_rate:g})."
            )
        return loss

    def validation_step(self, positions: list[int]) -> None:
        """Ask the model about a batch."""
        prediction, labels = self._ask([self.shown[position] for position in positions])
        if prediction is not None:
            answers = zip(prediction.slides, labels.view(-1).tolist(), strict=True)
            self._answers += [(each.logits.double().cpu(), label) for each, label in answers]

    def on_train_epoch_end(self) -> None:
        """Write down the epoch, keep the best weights, and save the state to resume from."""
        refuse_too_few(self.seen, self.shown, self.failed, self.labels)
        epoch = self._epoch()
        self.history.append(epoch)
        self._log(epoch)
        self.folder.write_epochs(self.name, self.history)
        self._plateau.step(epoch)
        if not self.refit and self.best is epoch:
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

    def _log(self, epoch: Epoch) -> None:
        values = {name: value for name, value in asdict(epoch).items() if value is not None}
        for name, value in values.items():
            self.log(name, float(value), prog_bar=name in LOGGED)
        if self.trainer.progress_bar_callback is None:
            told = [f"{LOGGED[name]} {values[name]:.3f}" for name in LOGGED if name in values]
            if epoch.patches_encoded:
                told.append(f"{epoch.patches_encoded:,} patches encoded")
            told.append(f"{epoch.seconds:.1f} s")
            logger.info("epoch %d of %d: %s", epoch.epoch, self.trainer.max_epochs, ", ".join(told))

    def _ask(self, slides: Sequence[CohortSlide]) -> tuple[Prediction | None, Tensor]:
        """Ask the model about slides; those that cannot be read are written down, and left out."""
        slides = [slide for slide in slides if slide.slide_id not in self.failed]
        labels = torch.tensor([self.labels.index(slide.label) for slide in slides])
        if not slides:
            return None, labels
        try:
            prediction = self._answer(slides)
        except (UnwritableError, MixedFeaturesError):
            raise
        except (SlideError, StoreError) as error:
            self._find_failed(slides, error)
            return self._ask(slides)
        # Of a bag, prediction and label are of one slide, not of a batch of one.
        labels = labels if prediction.members else labels[0]
        return prediction, labels.to(self.device)

    def _answer(self, slides: Sequence[CohortSlide]) -> Prediction:
        with ExitStack() as stack:
            # A slide that is drawn twice is opened once.
            opened = {
                slide.slide_id: stack.enter_context(self.bags.open(slide))
                for slide in {slide.slide_id: slide for slide in slides}.values()
            }
            prediction = run_model(
                self.model, [self._turned(opened[slide.slide_id].model_input) for slide in slides]
            )
        self._patches += sum(sum(each.cost_meter.total().patches) for each in opened.values())
        if isinstance(self.model, TaughtByOutlines) and self.training:
            (slide,) = slides
            return self._with_lesion_targets(prediction, slide, opened[slide.slide_id])
        return prediction

    def _with_lesion_targets(
        self, prediction: Prediction, slide: CohortSlide, opened: SlideInput
    ) -> Prediction:
        """Tell which of the patches that exist touch a lesion."""
        (look,) = opened.locate(prediction.looks)
        touching = np.zeros(len(look.rows), dtype=bool)
        if slide.outlines is not None:
            touching = touching_of(look, read_outlines(slide.outlines))
        told = torch.from_numpy(touching).to(self.device)
        return replace(prediction, terms={**prediction.terms, "touching": told})

    def _turned(self, given: Bag | PixelSource) -> Bag | PixelSource:
        """Mirror and turn a slide to learn from, one of eight ways."""
        if not (self.settings.augment and self.training):
            return given
        assert isinstance(given, PixelSource)
        way = int(torch.randint(8, (), generator=self.generator))
        return AugmentedSource(given, mirror=way >= 4, turns=way % 4)

    def _find_failed(self, slides: Sequence[CohortSlide], error: SlideError | StoreError) -> None:
        """Write down which slides of a batch cannot be read, by asking about each alone."""
        if len(slides) == 1:
            logger.warning("slide %s is left out from here on: %s", slides[0].slide_id, error)
            self.failed[slides[0].slide_id] = str(error)
            return
        with torch.no_grad():
            for slide in slides:
                self._ask([slide])
        if not any(slide.slide_id in self.failed for slide in slides):
            raise error

    def _epoch(self) -> Epoch:
        scores: dict[str, float | None] = dict.fromkeys(("loss", "accuracy", "weighted_f1", "auroc"))
        if self.shown:
            scores = _scores(self._answers, self.labels)
        return Epoch(
            epoch=self.current_epoch + 1,  # Lightning counts from 0
            train_loss=mean(self._losses or [math.nan]),
            val_loss=scores["loss"],
            val_accuracy=scores["accuracy"],
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
        if not self.refit and self.history:
            waited = self.history[-1].epoch - self.best.epoch
            if waited >= self.settings.patience:
                self.trainer.should_stop = True


def _refuse_without_outlines(slides: Sequence[CohortSlide], negative_class: str) -> None:
    for slide in slides:
        if slide.label != negative_class and slide.outlines is None:
            raise RunError(
                f"slide {slide.slide_id} ({slide.label}) has no outlines, and the model is taught "
                "by them; give them in the column outlines, or leave the slide out. If "
                f"{negative_class!r} is not the label of slides without a lesion, set model.negative_class."
            )


def cross_entropy(prediction: Prediction, label: Tensor) -> Tensor:
    """Give the loss of a model that has none of its own."""
    return F.cross_entropy(prediction.logits, label)


def _loader(
    slides: int, batch: int, sampler: BalancedSampler | None = None
) -> DataLoader[list[int]]:
    return DataLoader(
        cast("Dataset[list[int]]", range(slides)),
        batch_size=batch,
        sampler=sampler,
        collate_fn=list,
        generator=torch.Generator(),  # it draws a number that it has no use for here
    )


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
        "accuracy": float(scores["accuracy"][0]),
        "weighted_f1": float(scores["weighted_f1"][0]),
        "auroc": None if math.isnan(auroc) else auroc,
    }
