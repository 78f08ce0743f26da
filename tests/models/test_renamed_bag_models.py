"""Models of bags give the logits and losses of format version 1 with its settings and weights.

tests/fixtures/v1/bag_models.json was written by the last version with the old names: for each case
the settings, the names and shapes of the weights, and the logits and the training loss of one
slide. The weights themselves are random numbers of a fixed seed, in the order of the file.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)

from parfocal.bag import StoredBag
from parfocal.models import MODELS
from parfocal.models.contract import ProgressAware, training_loss
from parfocal.models.renamed import RENAMED, renamed_settings, renamed_weights

CASES = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "v1" / "bag_models.json").read_text(encoding="utf-8")
)


def slide() -> StoredBag:
    generator = torch.Generator().manual_seed(1)
    return StoredBag(
        [torch.randn(n, 6, generator=generator) for n in (12, 48)],
        valid=[torch.arange(n) % 5 != 0 for n in (12, 48)],
        cells=lambda step, rows: np.stack([rows % 4, rows // 4], 1),
    )


@pytest.mark.parametrize("case", CASES)
def test_old_settings_and_weights_give_the_old_logits_and_loss(case):
    old = CASES[case]
    name, generator = old["model"], torch.Generator().manual_seed(0)
    weights = {
        key: torch.randn(shape, generator=generator) / 2 for key, shape in old["weights"].items()
    }
    settings = renamed_settings(name, old["settings"])
    model = MODELS[name].build(in_dim=6, num_classes=2, **settings).eval()
    model.load_state_dict(renamed_weights(name, weights))
    if isinstance(model, ProgressAware):
        model.set_progress(0.5)
    torch.testing.assert_close(model(slide()).logits, torch.tensor(old["logits"]))
    torch.manual_seed(2)
    prediction = model.train()(slide())
    if old["loss"] is not None:
        loss = training_loss(
            model, MODELS[name].traits, prediction, torch.tensor(1), F.cross_entropy
        )
        torch.testing.assert_close(loss, torch.tensor(old["loss"]))


def test_every_model_of_bags_has_a_case():
    of_bags = {name for name, model in MODELS.items() if not model.traits.takes_pixels}
    assert {case["model"] for case in CASES.values()} == of_bags & set(RENAMED)


@pytest.mark.parametrize("name", RENAMED)
def test_new_names_of_settings_are_settings_of_the_model(name):
    known = {setting.name for setting in MODELS[name].settings}
    assert {*RENAMED[name].settings.values(), *RENAMED[name].values} <= known
    assert not known & set(RENAMED[name].settings)
