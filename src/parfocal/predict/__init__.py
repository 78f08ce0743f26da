"""Predict the class of slides: one slide in `slide`, many slides into a folder in `folder`."""

from parfocal.predict.folder import FailedSlide, predict_slides
from parfocal.predict.slide import classify, predict

__all__ = ["FailedSlide", "classify", "predict", "predict_slides"]
