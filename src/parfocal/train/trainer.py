"""Run Lightning's trainer, without its own messages."""

import io
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO

from parfocal.files import write_whole
from parfocal.progress import Progress, erase_bars
from parfocal.train.folder import RunError
from parfocal.train.loggers import opened_logger, quiet_write_errors
from parfocal.train.training_module import TrainingModule

# Lightning's warnings about what is intended here.
EXPECTED_WARNINGS = (
    r".*does not have many workers.*",
    r".*`training_step` returned `None`.*",  # for a batch whose slides all failed
    r".*GPU available but not used.*",
    r".*sync_dist=True.*",  # all processes log the same numbers
    r".*module\(s\) in eval mode at the start of training.*",  # batch norms of backbones
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # in Lightning's own code
)


INTERRUPTS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


def fit(module: TrainingModule, max_epochs: int, device: torch.device, *, progress: bool) -> None:
    """Train a module; if its state file exists, training continues from there.

    Args:
        module: module to train.
        max_epochs: maximum number of epochs.
        device: device to train on.
        progress: whether to report the slides of each epoch, for a progress bar. Each epoch is a
            line in the log.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """
    interrupt_handler = InterruptHandler()
    logger = module.settings.logger if module.ranks.is_first else "csv"
    callbacks: list[pl.Callback] = [interrupt_handler]
    if progress:
        callbacks.append(EpochBar())
    try:
        with (
            interrupt_handler,
            _quiet_lightning(),
            _flushed_denormals(),
            quiet_write_errors(),
            torch.random.fork_rng(devices=[]),
            opened_logger(logger, module.folder.path, module.name) as log,
        ):
            trainer = _build_trainer(module, max_epochs, device, callbacks, log)
            state = module.state_file if module.state_file.exists() else None
            trainer.fit(module, ckpt_path=state, weights_only=True)
    except SystemExit:  # how Lightning ends after Ctrl-C
        raise KeyboardInterrupt(
            f"{module.folder.path}: stopped after {len(module.history)} complete epochs; continue "
            "with --resume."
        ) from None


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Let the CPU treat numbers too small to be normal (below 1e-38) as 0.

    Once the gradient of a weight is always 0, as behind a ReLU that never fires, each step
    multiplies Adam's mean of it by 0.9, down to the smallest number there is, which rounding then
    keeps as it is. Arithmetic with such numbers is slow (`benchmarks/denormals.py`).
    """
    torch.set_flush_denormal(True)  # of this thread, and of those that it starts
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class InterruptHandler(pl.Callback):
    """Stops at the next batch after Ctrl-C, even if a library swallowed the KeyboardInterrupt.

    So it does after any other signal for which a handler is installed that raises one.
    """

    def __enter__(self) -> None:
        self.requested = False
        # Only the main thread may set a signal handler.
        if threading.current_thread() is not threading.main_thread():
            self.usual_handlers = {}
            return
        self.usual_handlers = {
            number: signal.getsignal(number)
            for name in INTERRUPTS
            if (number := getattr(signal, name, None)) is not None
        }
        for number, handler in self.usual_handlers.items():
            if callable(handler):
                signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.usual_handlers.items():
            signal.signal(number, handler)  # after Ctrl-C, Lightning leaves it ignored

    def on_train_batch_start(self, *_: Any) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.requested:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        handler = self.usual_handlers[signal.Signals(number)]
        assert callable(handler)
        handler(number, frame)


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes the training state completely or not at all; until then, the one before is kept.

    Lightning itself writes to the folder of temporary files and moves the result, which leaves
    half of a file if that is another file system.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a training state."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getvalue())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a training state.

        Raises:
            RunError: the file is damaged.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location, weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, UnpicklingError) as error:
            raise RunError(
                f"{path}: the training state is damaged ({type(error).__name__}). Delete the file; "
                "--resume then trains from the first epoch."
            ) from error
        return state


class EpochBar(pl.Callback):
    """Shows one bar per epoch, which counts its training and validation slides.

    At the end of the epoch the bar gives way to the log line with the metrics of that epoch.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the bar of an epoch."""
        assert isinstance(pl_module, TrainingModule)
        ranks = pl_module.ranks  # of several processes, the first one reports what it does
        train, val = len(pl_module.train_slides), len(pl_module.val_slides) // ranks.count
        if not pl_module.divides_batches:
            train //= ranks.count
        task = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        self._bar = Progress(task, train + val, keep=False)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count the slides of a batch."""
        self._bar.advance("trained", count=len(batch))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count the slides of a batch."""
        self._bar.advance("validated", count=len(batch))

    def on_train_epoch_end(self, *_: Any) -> None:
        """Remove the bar; slides that failed have left it incomplete."""
        erase_bars()


def _build_trainer(
    module: TrainingModule,
    max_epochs: int,
    device: torch.device,
    callbacks: list[pl.Callback],
    log: Logger | None,
) -> pl.Trainer:
    settings = module.settings
    return pl.Trainer(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        max_epochs=max_epochs,
        accumulate_grad_batches=module.accumulated_batches,
        gradient_clip_val=settings.gradient_clip_norm,
        precision="bf16-mixed" if settings.bf16 and _supports_bf16(device) else "32-true",
        callbacks=callbacks,
        # Not that of SLURM, whose jobs Lightning would join to one training, and requeue.
        plugins=[LightningEnvironment(), WholeCheckpointIO()],
        logger=log or False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if module.val_slides else 0,
        log_every_n_steps=1,
    )


def _supports_bf16(device: torch.device) -> bool:
    """Return whether a device computes in bfloat16 without emulation."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hide Lightning's messages about hardware and its expected warnings."""
    loggers = [logging.getLogger("pytorch_lightning"), logging.getLogger("lightning_fabric")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        for each in loggers:
            each.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
