"""A cohort -> a run folder with a trained model.

Lightning is imported in `lesson.py` and `trainer.py` alone.
"""

from parfocal.train.folder import Epoch, RunError, RunFolder, RunSummary
from parfocal.train.run import splits_of, train

__all__ = ["Epoch", "RunError", "RunFolder", "RunSummary", "splits_of", "train"]
