"""Logs for MLflow, which is an optional package."""

import os
from pathlib import Path

from pytorch_lightning.loggers import MLFlowLogger

from parfocal.train.loggers import environment_or, run_name

# Newer versions refuse a folder unless it is set; a database would need many more packages.
ALLOW_FOLDER = "MLFLOW_ALLOW_FILE_STORE"


def mlflow_logger(folder: Path, name: str) -> MLFlowLogger:
    """Return a logger that writes to `mlruns/` in a run folder, or to MLFLOW_TRACKING_URI.

    Args:
        folder: run folder.
        name: name of the metrics file.
    """
    os.environ.setdefault(ALLOW_FOLDER, "true")
    return MLFlowLogger(
        experiment_name=environment_or("MLFLOW_EXPERIMENT_NAME", "parfocal"),
        run_name=run_name(folder, name),
        tracking_uri=environment_or("MLFLOW_TRACKING_URI", (folder / "mlruns").absolute().as_uri()),
    )
