"""Logs for Weights & Biases, which is an optional package."""

from pathlib import Path

import wandb
from pytorch_lightning.loggers import WandbLogger

from parfocal.train.loggers import environment_or, run_name


def wandb_logger(folder: Path, name: str) -> WandbLogger:
    """Return a logger that writes to `wandb/` in a run folder; nothing is uploaded.

    `wandb sync` uploads the folder later; with WANDB_MODE=online, the package uploads at once.

    Args:
        folder: run folder.
        name: name of the metrics file.
    """
    return WandbLogger(
        name=run_name(folder, name),
        save_dir=folder,
        offline=environment_or("WANDB_MODE", "offline") == "offline",
        project=environment_or("WANDB_PROJECT", "parfocal"),
        settings=wandb.Settings(silent=True),  # each epoch is a line of our own log
    )
