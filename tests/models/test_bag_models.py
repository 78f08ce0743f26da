"""What every model of bags has to do: use any number of patches, ignore those that do not exist.

All models in `MODELS` that take features are tested, except those that zoom or need outlines, which
have tests of their own. A model is built with its defaults, unless SMALL has smaller settings.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import nn

from parfocal.bag import StoredBag
from parfocal.models import MODELS
from parfocal.models.contract import training_loss
from parfocal.prediction import Prediction

NAMES = [
    name
    for name, model in MODELS.items()
    if model.traits.takes_features and not (model.traits.zooms or model.traits.needs_outlines)
]
# Models that read several magnifications; a coarse student reads the higher with a teacher only.
SEVERAL = [
    name
    for name in NAMES
    if MODELS[name].traits.multiple_magnifications and not MODELS[name].traits.uses_teacher
]
SMALL: dict[str, dict[str, object]] = {
    "abmil": {"dim": 8, "hidden_dim": 4, "dropout": 0.0},
    "clam": {"dim": 8, "hidden_dim": 4, "dropout": 0.0},
    "transmil": {"dim": 8, "num_heads": 2, "num_landmarks": 4, "dropout": 0.0},
    "dsmil": {"query_dim": 4},
    "msmil": {"dim": 8, "hidden_dim": 4},
    "sparseconvmil": {"dim": 8, "downsample": 2},
    "ips": {"num_selected": 3, "chunk_size": 2, "dim": 8, "num_heads": 2, "dropout": 0.0},
    "mean": {"dim": 8, "dropout": 0.0},
    "mean-mlp": {"hidden_dim": 8, "dropout": 0.0},
    "coarse-student": {"dim": 8, "hidden_dim": 4, "dropout": 0.0},
    "max": {"dim": 8, "dropout": 0.0},
}
ORDERED = ("transmil",)  # models for which the order of the patches matters
CHILDREN, FEATURES, CLASSES = 4, 5, 3


def make(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    arguments = MODELS[name].run_arguments(
        in_dim=FEATURES, num_classes=CLASSES, num_slides=2, magnifications=(5, 10), patch_size=8
    )
    return MODELS[name].build(**arguments, **SMALL.get(name, {}) | settings).eval()


def cells(step: int, rows: np.ndarray) -> np.ndarray:
    return np.stack([rows % 7, rows // 7], axis=1)


def tables(rows: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return [torch.randn(n, FEATURES, generator=generator) for n in (rows, rows * CHILDREN)]


def loss_of(name: str, model: nn.Module, prediction: Prediction) -> torch.Tensor:
    return training_loss(model, MODELS[name].traits, prediction, torch.tensor(1), F.cross_entropy)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 2, 3, 15, 16, 17, 300])
def test_a_bag_of_any_size_is_classified_and_trained_on(name, rows):
    model = make(name).train()
    prediction = model(StoredBag(tables(rows), cells=cells))
    loss = loss_of(name, model, prediction)
    loss.backward()
    assert prediction.logits.shape == (CLASSES,)
    assert prediction.logits.isfinite().all()
    assert loss.isfinite()
    assert all(
        weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None
    )


@pytest.mark.parametrize("name", NAMES)
def test_two_hundred_thousand_patches_are_classified(name):
    rows = 200_000 // CHILDREN if name in SEVERAL else 200_000
    low, high = tables(rows) if name in SEVERAL else (torch.randn(rows, FEATURES), None)
    settings = {"chunk_size": 5000} if name == "ips" else {}  # chunks of 2 take 15 s
    with torch.no_grad():
        prediction = make(name, **settings)(
            StoredBag([low] if high is None else [low, high], cells=cells)
        )
    assert prediction.logits.isfinite().all()
    assert len(prediction.looks[-1].rows) == 200_000
    assert prediction.looks[-1].score.sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["abmil", "clam"])
def test_the_chunk_size_changes_neither_the_loss_nor_its_gradient(name, monkeypatch):
    model, bag = make(name).double().train(), StoredBag([tables(40)[0].double()])

    def loss_and_gradients() -> list[torch.Tensor]:
        loss = loss_of(name, model, model(bag))
        weights = list(model.parameters())
        return [
            loss,
            *torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True),
        ]

    whole = loss_and_gradients()
    monkeypatch.setattr(f"parfocal.models.{name}.CHUNK", 7)
    for chunked, expected in zip(loss_and_gradients(), whole, strict=True):
        torch.testing.assert_close(chunked, expected)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_gets_a_gradient(name):
    model = make(name).train()
    loss_of(name, model, model(StoredBag(tables(60), cells=cells))).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    # CLAM trains only the instance classifier of the slide's class, which is 1.
    excepted = {"clam": ["instance_classifiers.0", "instance_classifiers.2"]}.get(name, [])
    assert [name for name in without if name.rpartition(".")[0] not in excepted] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_patches_that_do_not_exist_change_nothing(name, training):
    # Most rows are placeholders, so a model that keeps k patches has to leave them out.
    places = np.random.default_rng(0).permutation(800)

    def results_with(placeholder: float) -> tuple[torch.Tensor, ...]:
        low, high = tables(200)
        valid = [torch.arange(rows) % 5 == 1 for rows in (200, 800)]
        valid[1] &= valid[0].repeat_interleave(CHILDREN)
        low[~valid[0]], high[~valid[1]] = placeholder, placeholder
        moved = np.stack([places % 7, places // 7], axis=1) + int(placeholder)
        positions = [
            np.where(v.numpy()[:, None], cells(0, np.arange(len(v))), moved[: len(v)])
            for v in valid
        ]
        bag = StoredBag([low, high], valid=valid, cells=lambda step, rows: positions[step][rows])
        model = make(name).train(training)
        torch.manual_seed(1)
        prediction = model(bag)
        result = loss_of(name, model, prediction) if training else prediction.logits[0]
        gradients = torch.autograd.grad(
            result, list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        for look, exists in zip(prediction.looks, valid, strict=False):
            assert look.score[~exists].count_nonzero() == 0
        return prediction.logits, *gradients, *prediction.scores

    for one, other in zip(results_with(0.0), results_with(100.0), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SEVERAL])
def test_padding_a_bag_changes_nothing(name):
    (rows, _), model = tables(12), make(name)
    padded = torch.cat([rows, torch.zeros(5, FEATURES)])
    bag = StoredBag([padded], valid=[torch.arange(17) < 12], cells=cells)
    torch.testing.assert_close(
        model(bag).logits, model(StoredBag([rows], cells=cells)).logits, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_bag_without_a_valid_patch_is_an_error(name):
    nothing = [torch.zeros(n, dtype=torch.bool) for n in (3, 12)]
    with pytest.raises(ValueError, match=r"the bag has no valid patch among its \d+"):
        make(name)(StoredBag(tables(3), valid=nothing, cells=cells))


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_look_per_magnification_whose_score_sums_to_one(name):
    prediction = make(name)(StoredBag(tables(15), cells=cells))
    counts = [15, 60] if name in SEVERAL else [15]
    assert [len(look.rows) for look in prediction.looks] == counts
    for look in prediction.looks:
        assert look.score.sum().item() == pytest.approx(1, abs=1e-5)
        assert look.score.min() >= 0
        assert not look.score.requires_grad
        assert look.selected is None


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ORDERED])
def test_the_order_of_patches_does_not_matter(name):
    low, high = tables(15)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(2))
    moved = [low[order], high.view(15, CHILDREN, -1)[order].reshape(60, -1)]
    model = make(name)
    prediction = model(StoredBag(moved, cells=lambda step, rows: cells(step, order.numpy()[rows])))
    torch.testing.assert_close(
        prediction.logits, model(StoredBag([low, high], cells=cells)).logits, rtol=1e-4, atol=1e-5
    )
