"""Classifiers of slides, one file a method."""

from torch import nn

from parfocal.models.pooling import MaxPooling, MeanPooling
from parfocal.models.zoommil import ZoomMIL

MODELS: dict[str, type[nn.Module]] = {"zoommil": ZoomMIL, "mean": MeanPooling, "max": MaxPooling}
__all__ = ["MODELS", "MaxPooling", "MeanPooling", "ZoomMIL"]
