"""Lightning's trainer, set up for a lesson and kept quiet."""

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from parfocal.train.training_module import LOGGED, TrainingModule

# Lightning's warnings about what is meant here: one slide is a batch, and a failed one no loss.
EXPECTED_WARNINGS = (
    r".*does not have many workers.*",
    r".*`training_step` returned `None`.*",
    r".*GPU available but not used.*",
    r".*module\(s\) in eval mode at the start of training.*",  # the batch norms of backbones
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # its own use of torch
)


def fit(lesson: TrainingModule, epochs: int, device: torch.device, *, progress: bool) -> None:
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
    heard = InterruptHandler()
    trainer_settings: dict[str, Any] = {
        "accelerator": device.type,
        "devices": 1 if device.index is None else [device.index],
        "max_epochs": epochs,
        "accumulate_grad_batches": lesson.settings.accumulate_grad_batches,
        "gradient_clip_val": lesson.settings.gradient_clip_norm,
        "precision": "bf16-mixed" if lesson.settings.bf16 and _has_half(device) else "32-true",
        "callbacks": [heard, ProgressBar()] if progress else [heard],
        "enable_progress_bar": progress,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": None if lesson.shown else 0,
        "log_every_n_steps": 1,
    }
    try:
        with heard, _quiet_lightning(), _quiet_writer(), torch.random.fork_rng(devices=[]):
            log = TensorBoardLogger(lesson.folder.path, "tensorboard", lesson.name)
            state = lesson.state_file if lesson.state_file.exists() else None
            trainer = pl.Trainer(**trainer_settings, logger=log)
            trainer.fit(lesson, ckpt_path=state, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        whole = len(lesson.history)
        raise KeyboardInterrupt(
            f"{lesson.folder.path}: stopped after {whole} whole epochs; with resume it goes on."
        ) from None


class InterruptHandler(pl.Callback):
    """Ctrl-C is heard at the next batch, where some library let its exception get lost."""

    def __enter__(self) -> None:
        self.asked, self.usual = False, signal.getsignal(signal.SIGINT)
        self.ours = threading.current_thread() is threading.main_thread()  # others may set none
        if self.ours and callable(self.usual):
            signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self.ours:  # Lightning ignores Ctrl-C for good, once it has come
            signal.signal(signal.SIGINT, self.usual)

    def on_train_batch_start(self, *_: Any) -> None:
        """Stop, if asked to."""
        if self.asked:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        assert callable(self.usual)
        self.usual(number, frame)


class ProgressBar(TQDMProgressBar):
    """One line an epoch, without Lightning's own version number."""

    def __init__(self) -> None:
        super().__init__(leave=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Count from 1, as everything does that a person reads."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(
            f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        )

    def get_metrics(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Give what stands beside the bar."""
        return {
            LOGGED[name]: value
            for name, value in super().get_metrics(trainer, pl_module).items()
            if name in LOGGED
        }


def _has_half(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 by itself."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning from telling of hardware and tips, and of what is meant to be so."""
    talkers = [logging.getLogger("pytorch_lightning"), logging.getLogger("lightning_fabric")]
    levels = [talker.level for talker in talkers]
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        for talker in talkers:
            talker.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for talker, level in zip(talkers, levels, strict=True):
                talker.setLevel(level)


@contextmanager
def _quiet_writer() -> Iterator[None]:
    """Keep TensorBoard's thread from printing a write error, as it raises the same one in ours."""
    usual = threading.excepthook

    def told(failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError):
            usual(failure)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = usual
