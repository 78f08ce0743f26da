import pytest
import torch

from parfocal.models.contract import OutputNotFiniteError, require_finite
from parfocal.prediction import Look, Prediction


def prediction(logit: float, score: float) -> Prediction:
    look = Look(torch.tensor([0]), torch.tensor([score]))
    return Prediction(torch.tensor([0.0, logit]), (look,))


def test_finite_output_passes():
    require_finite(prediction(1.0, 0.5), "a")


@pytest.mark.parametrize(
    ("logit", "score"), [(float("nan"), 0.5), (float("inf"), 0.5), (1.0, float("nan"))]
)
def test_output_that_is_not_finite_is_no_prediction(logit, score):
    with pytest.raises(OutputNotFiniteError, match="a: the model's output is not a finite number"):
        require_finite(prediction(logit, score), "a")
