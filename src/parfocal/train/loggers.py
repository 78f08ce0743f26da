"""Loggers of the metrics of each epoch, by optional packages; metrics.csv is always written."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import yaml
from pytorch_lightning.loggers import Logger, WandbLogger

from parfocal.settings.sections import LoggerName
from parfocal.train.folder import SETTINGS_FILE, RunError

# Name of the logger -> its module and its product name.
PACKAGES = {
    "tensorboard": ("tensorboard", "TensorBoard"),
    "mlflow": ("mlflow", "MLflow"),
    "wandb": ("wandb", "Weights & Biases"),
}


def require_logger(name: LoggerName) -> None:
    """Check that the package of a logger is installed.

    Args:
        name: value of `train.logger`.

    Raises:
        RunError: it is not.
    """
    if name == "csv":
        return
    module, own_name = PACKAGES[name]
    if find_spec(module) is None:
        raise RunError(
            f"train.logger: {own_name} is not installed; install it with "
            f"`pip install 'parfocal[{name}]'`, or use --logger csv. metrics.csv has the same "
            "numbers."
        )


@contextmanager
def opened_logger(kind: LoggerName, folder: Path, name: str) -> Iterator[Logger | None]:
    """Open the logger of a training for a block; None if only metrics.csv is written.

    The logger also stores the settings of the run folder.

    Args:
        kind: value of `train.logger`.
        folder: run folder, with settings.yaml.
        name: name of the metrics file, which separates a refit from the training before it.
    """
    if kind == "csv":
        yield None
        return
    logger = _open(kind, folder, name)
    sections = yaml.safe_load((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    logger.log_hyperparams(
        {f"{each}.{key}": str(value) for each in sections for key, value in sections[each].items()}
    )
    try:
        yield logger
    finally:
        if isinstance(logger, WandbLogger):  # else the next fold would write to the same run
            logger.experiment.finish()


def _open(kind: LoggerName, folder: Path, name: str) -> Logger:
    if kind == "mlflow":
        from parfocal.train.mlflow import mlflow_logger  # noqa: PLC0415 (optional)

        return mlflow_logger(folder, name)
    if kind == "wandb":
        from parfocal.train.wandb import wandb_logger  # noqa: PLC0415 (optional)

        return wandb_logger(folder, name)
    from parfocal.train.tensorboard import tensorboard_logger  # noqa: PLC0415 (optional)

    return tensorboard_logger(folder, name)


def run_name(folder: Path, name: str) -> str:
    """Return a name for a run folder: its last two parts, and "refit" for a refit.

    >>> run_name(Path("/results/abmil/seed-0"), "metrics")
    'abmil/seed-0'
    """
    parts = folder.absolute().parts[-2:]
    return "/".join((*parts, name) if name == "refit" else parts)


def environment_or(variable: str, default: str) -> str:
    """Return an environment variable, or a default if it is not set or empty."""
    return os.environ.get(variable) or default


@contextmanager
def quiet_write_errors() -> Iterator[None]:
    """Do not print write errors of a logger's thread; the main thread raises them as well."""
    usual_hook = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError):
            usual_hook(failure)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = usual_hook
