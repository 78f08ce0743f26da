"""Logs for TensorBoard, which is an optional package."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger

from parfocal.train.folder import RunError


def require_tensorboard() -> None:
    """Check that TensorBoard is installed.

    Raises:
        RunError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise RunError(
            "train.tensorboard: TensorBoard is not installed; install it with "
            "`pip install 'parfocal[tensorboard]'`, or remove the setting. metrics.csv has the "
            "same numbers."
        )


def tensorboard_logger(folder: Path, name: str) -> TensorBoardLogger:
    """Return a logger that writes to `tensorboard/<name>` in a run folder."""
    return TensorBoardLogger(folder, "tensorboard", name)


@contextmanager
def quiet_write_errors() -> Iterator[None]:
    """Do not print a write error of TensorBoard's thread, which the main thread raises as well."""
    usual_hook = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError):
            usual_hook(failure)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = usual_hook
