"""Train a model on a cohort and write a run folder.

Only this package imports Lightning, in `training_module.py`, `trainer.py` and the files of loggers.
"""

from parfocal.train.folder import RunError, RunFolder
from parfocal.train.run import make_splits, train
from parfocal.train.summary import Epoch, RunSummary

__all__ = ["Epoch", "RunError", "RunFolder", "RunSummary", "make_splits", "train"]
