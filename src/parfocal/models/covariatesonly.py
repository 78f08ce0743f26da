"""Covariates alone: a linear classifier of the clinical covariates, without the slide.

Source: ours; it is logistic regression, or Cox regression and the like with another task.
Departs: none. It is the baseline that shows what a model of slides adds to what is known anyway.
"""

import torch
from torch import nn

from parfocal.bag import Bag
from parfocal.prediction import Prediction


class CovariatesOnly(nn.Module):
    """Predict from the covariates of a slide or patient; the slide is not opened.

    The model has a bias for each logit; the layer of the covariates is added to it as to any model
    (`parfocal.models.covariates`).

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, bag: Bag) -> Prediction:
        """Return the bias; the bag is ignored."""
        return Prediction(self.bias + 0.0, stop_reason="the model opens no slide")
