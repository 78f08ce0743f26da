"""Models of several magnifications on features that have another width at each."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from parfocal.bag import StoredBag
from parfocal.models import MODELS
from parfocal.models.contract import training_loss
from parfocal.models.layers.widths import widths_per_magnification

WIDTHS = [5, 3, 8]
MULTIPLE = [
    name
    for name, model in MODELS.items()
    if model.traits.multiple_magnifications
    and not model.traits.takes_pixels
    and name != "topk"  # of two magnifications, tested in test_topk.py
]


def cells(step: int, rows: np.ndarray) -> np.ndarray:
    return np.stack([rows % 7, rows // 7], axis=1)


def tables(widths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(count, width, generator=generator)
        for count, width in zip((6, 24, 96), widths, strict=True)
    ]


def build(name: str, in_dim: int | list[int], **settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    arguments = MODELS[name].run_arguments(
        in_dim=in_dim,
        num_classes=2,
        num_slides=4,
        magnifications=(1.25, 2.5, 5.0),
        patch_size=16,
    )
    return MODELS[name].build(**arguments, **settings)


def test_all_models_of_several_magnifications_are_tested():
    assert sorted(MULTIPLE) == ["coarse-student", "dsmil", "msmil", "paths", "zoommil"]


@pytest.mark.parametrize("name", MULTIPLE)
def test_a_model_learns_from_another_width_at_each_magnification(name):
    model = build(name, WIDTHS).train()
    bag = StoredBag(tables(WIDTHS), cells=cells)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = training_loss(model, MODELS[name].traits, model(bag), torch.tensor(1), cross_entropy)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(weight.grad is not None for weight in first_layers(model))


def first_layers(model: torch.nn.Module) -> list[Tensor]:
    """Return the weights that are as wide as a magnification's features, or as all together."""
    wide = {*WIDTHS, sum(WIDTHS)}
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    return [layer.weight for layer in layers if layer.in_features in wide]


@pytest.mark.parametrize("name", ["zoommil", "dsmil"])
def test_equal_widths_give_the_same_model_as_one_width(name):
    one, several = build(name, 5).eval(), build(name, [5, 5, 5]).eval()
    assert str(one) == str(several)
    for (key, weight), (other_key, other) in zip(
        one.state_dict().items(), several.state_dict().items(), strict=True
    ):
        assert key == other_key
        assert torch.equal(weight, other)
    bag = StoredBag(tables([5, 5, 5]))
    assert torch.equal(one(bag).logits, several(bag).logits)


def test_msmil_embeds_the_features_of_each_encoder_by_themselves():
    model = build("msmil", [5, 5, 5]).eval()
    embedders = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)][:3]
    assert [layer.in_features for layer in embedders] == [5, 5, 5]
    levels = tables([5, 5, 5])
    pairs = zip(levels, embedders, strict=True)
    h = torch.cat([(level @ e.weight.T + e.bias).relu() for level, e in pairs])
    scores = h @ model.attention.value.weight.T + model.attention.value.bias
    scores = scores.tanh() @ model.attention.score.weight.T + model.attention.score.bias
    expected = model.classifier((scores.squeeze(1).softmax(0)) @ h)
    assert torch.allclose(model(StoredBag(levels)).logits, expected, atol=1e-6)
    shared = build("msmil", 5)
    assert list(shared.state_dict())[:2] == ["embedder.0.weight", "embedder.0.bias"]


def test_dsmil_concatenates_the_features_of_all_magnifications():
    model = build("dsmil", WIDTHS)
    assert model.instance_classifier.in_features == sum(WIDTHS)


def test_zoommil_projects_each_magnification_to_one_width():
    model = build("zoommil", WIDTHS, dim=7, k=2)
    assert [embed[0].in_features for embed in model.embedders] == WIDTHS
    assert {embed[0].out_features for embed in model.embedders} == {7}
    prediction = model(StoredBag(tables(WIDTHS)))
    assert [len(look.rows) for look in prediction.looks] == [6, 8, 8]


@pytest.mark.parametrize("name", MULTIPLE)
def test_another_number_of_widths_than_magnifications_is_refused(name):
    message = r"in_dim=\[5, 3\] has 2 numbers, but the model has 3 magnifications; give one number"
    with pytest.raises(ValueError, match=message):
        build(name, [5, 3])


def test_a_model_at_one_magnification_takes_the_width_of_that_one():
    arguments = MODELS["abmil"].run_arguments(
        in_dim=[5], num_classes=2, num_slides=4, magnifications=(10.0,), patch_size=16
    )
    assert arguments["in_dim"] == 5


def test_a_differentiable_zoom_mixes_features_of_other_widths():
    levels = tables(WIDTHS)
    select = torch.tensor([[0.25, 0.75, 0, 0, 0, 0]], requires_grad=True)
    bag = StoredBag(levels).zoom(select)
    assert bag.features().shape == (4, 3)
    expected = 0.25 * levels[1][:4] + 0.75 * levels[1][4:8]
    assert torch.allclose(bag.features(), expected)
    last = bag.zoom(None)
    assert last.features().shape == (16, 8)
    assert torch.allclose(last.features(), 0.25 * levels[2][:16] + 0.75 * levels[2][16:32])


def test_one_width_holds_for_all_magnifications():
    assert widths_per_magnification(4, 3) == [4, 4, 4]
    assert widths_per_magnification((4, 5), 2) == [4, 5]
