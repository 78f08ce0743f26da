"""Every method that zooms into patches visits them in rounds, and answers as without rounds."""

import numpy as np
import pytest
import torch
from jaxtyping import Int64

from parfocal.bag import StoredBag
from parfocal.models import MODELS
from parfocal.models.contract import run_model
from parfocal.models.rounds import Rounds

ZOOMING = [
    name for name, model in MODELS.items() if model.traits.zooms and not model.traits.takes_pixels
]
SIDE = 3  # roots along each side


def cells(step: int, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n 2"]:
    """Return positions on the lattice, children depth first."""
    column, row = np.zeros_like(rows), np.zeros_like(rows)
    for level in range(step):
        column, row = column + (rows // 2 % 2 << level), row + (rows % 2 << level)
        rows = rows // 4
    return np.stack([column + (rows % SIDE << step), row + (rows // SIDE << step)], axis=1)


@pytest.mark.parametrize("name", ZOOMING)
def test_a_method_answers_after_all_rounds_as_without_rounds(name: str):
    torch.manual_seed(0)
    bag = StoredBag([torch.randn(9 * 4**step, 8) for step in range(2)], cells=cells)
    arguments = MODELS[name].run_arguments(
        in_dim=8, num_classes=2, num_slides=4, magnifications=(5.0, 10.0), patch_size=16
    )
    model = MODELS[name].build(**arguments).eval()
    with torch.no_grad():
        at_once = run_model(model, [bag])
        rounds = Rounds(model, bag, round_patches=8)
        prediction = rounds.finish()
    assert rounds.asked
    assert len(prediction.rounds) > 1
    assert torch.equal(prediction.logits, at_once.logits)
