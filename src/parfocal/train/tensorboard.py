"""Logs for TensorBoard, which is an optional package."""

from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger


def tensorboard_logger(folder: Path, name: str) -> TensorBoardLogger:
    """Return a logger that writes to `tensorboard/<name>` in a run folder.

    Args:
        folder: run folder.
        name: name of the metrics file.
    """
    return TensorBoardLogger(folder, "tensorboard", name, default_hp_metric=False)
