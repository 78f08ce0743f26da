"""What every model of one bag promises: any number of patches, and none that does not exist."""

import numpy as np
import pytest
import torch
from torch import nn

from parfocal.bag import Prediction, StoredBag
from parfocal.models import MODELS

# Small, and nothing drawn. Each looks at two magnifications where it can.
SETTINGS = {
    "abmil": {"dim": 8, "hidden_dim": 4, "dropout": 0.0},
    "clam": {"dim": 8, "hidden_dim": 4, "dropout": 0.0},
    "transmil": {"dim": 8, "heads": 2, "landmarks": 4, "dropout": 0.0},
    "dsmil": {"num_magnifications": 2, "query_dim": 4},
    "msmil": {"num_magnifications": 2, "dim": 8, "hidden_dim": 4},
    "sparseconvmil": {"dim": 8, "downsample": 2},
    "ips": {"m": 3, "chunk": 2, "dim": 8, "heads": 2, "dropout": 0.0},
    "mean": {"dim": 8, "dropout": 0.0},
    "max": {"dim": 8, "dropout": 0.0},
}
SEVERAL = ("dsmil", "msmil")
CHILDREN, FEATURES, CLASSES = 4, 5, 3


def make(name: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name](FEATURES, CLASSES, **{**SETTINGS[name], **settings}).eval()


def cells(step: int, rows: np.ndarray) -> np.ndarray:
    return np.stack([rows % 7, rows // 7], axis=1)


def tables(rows: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return [torch.randn(n, FEATURES, generator=generator) for n in (rows, rows * CHILDREN)]


def loss_of(model: nn.Module, prediction: Prediction) -> torch.Tensor:
    def cross_entropy(prediction: Prediction, label: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(prediction.logits[None], label[None])

    return getattr(model, "objective", cross_entropy)(prediction, torch.tensor(1))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("rows", [1, 2, 3, 15, 16, 17, 300])
def test_any_number_of_patches_is_answered_and_learned_from(name, rows):
    model = make(name).train()
    prediction = model(StoredBag(tables(rows), cells=cells))
    loss = loss_of(model, prediction)
    loss.backward()
    assert prediction.logits.shape == (CLASSES,)
    assert prediction.logits.isfinite().all()
    assert loss.isfinite()
    assert all(
        weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_two_hundred_thousand_patches_are_answered(name):
    rows = 200_000 // CHILDREN if name in SEVERAL else 200_000
    low, high = tables(rows) if name in SEVERAL else (torch.randn(rows, FEATURES), None)
    settings = {"chunk": 5000} if name == "ips" else {}  # 2 at a time takes a quarter of a minute
    with torch.no_grad():
        prediction = make(name, **settings)(
            StoredBag([low] if high is None else [low, high], cells=cells)
        )
    assert prediction.logits.isfinite().all()
    assert len(prediction.looks[-1].rows) == 200_000
    assert prediction.looks[-1].attention.sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["abmil", "clam"])
def test_how_many_patches_are_embedded_together_changes_nothing(name, monkeypatch):
    """Also not what is learned, nor which patches CLAM teaches."""
    model, bag = make(name).double().train(), StoredBag([tables(40)[0].double()])

    def learned() -> list[torch.Tensor]:
        loss = loss_of(model, model(bag))
        weights = list(model.parameters())
        return [
            loss,
            *torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True),
        ]

    together = learned()
    monkeypatch.setattr(f"parfocal.models.{name}.AT_ONCE", 7)
    for one, other in zip(learned(), together, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_weight_learns(name):
    model = make(name).train()
    loss_of(model, model(StoredBag(tables(60), cells=cells))).backward()
    still = [name for name, weight in model.named_parameters() if weight.grad is None]
    taught = {"clam": ["judge.0", "judge.2"]}.get(name, [])  # classes the slide is not of
    assert [name for name in still if name.rpartition(".")[0] not in taught] == []


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("training", [True, False])
def test_patches_that_do_not_exist_change_nothing(name, training):
    places = np.random.default_rng(0).permutation(60)

    def look_at(filling: float) -> tuple[torch.Tensor, ...]:
        low, high = tables(15)
        valid = [torch.arange(15) % 5 != 1, torch.arange(60) % 5 != 1]
        valid[1] &= valid[0].repeat_interleave(CHILDREN)
        low[~valid[0]], high[~valid[1]] = filling, filling
        moved = np.stack([places % 7, places // 7], axis=1) + int(filling)
        kept = [
            np.where(v.numpy()[:, None], cells(0, np.arange(len(v))), moved[: len(v)])
            for v in valid
        ]
        bag = StoredBag([low, high], valid=valid, cells=lambda step, rows: kept[step][rows])
        model = make(name).train(training)
        torch.manual_seed(1)
        prediction = model(bag)
        answer = loss_of(model, prediction) if training else prediction.logits[0]
        gradients = torch.autograd.grad(
            answer, list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        for look, exists in zip(prediction.looks, valid, strict=False):
            assert look.attention[~exists].count_nonzero() == 0
        return prediction.logits, *gradients, *prediction.attention

    for one, other in zip(look_at(0.0), look_at(100.0), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in SEVERAL])
def test_padding_a_bag_changes_nothing(name):
    (rows, _), model = tables(12), make(name)
    padded = torch.cat([rows, torch.zeros(5, FEATURES)])
    bag = StoredBag([padded], valid=[torch.arange(17) < 12], cells=cells)
    torch.testing.assert_close(
        model(bag).logits, model(StoredBag([rows], cells=cells)).logits, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_a_bag_without_any_patch_is_refused(name):
    nothing = [torch.zeros(n, dtype=torch.bool) for n in (3, 12)]
    with pytest.raises(ValueError, match=r"none of the bag's \d+ patches exists, so there is"):
        make(name)(StoredBag(tables(3), valid=nothing, cells=cells))


@pytest.mark.parametrize("name", SETTINGS)
def test_there_is_a_look_for_each_magnification_and_its_attention_sums_to_one(name):
    prediction = make(name)(StoredBag(tables(15), cells=cells))
    counts = [15, 60] if name in SEVERAL else [15]
    assert [len(look.rows) for look in prediction.looks] == counts
    for look in prediction.looks:
        assert look.attention.sum().item() == pytest.approx(1, abs=1e-5)
        assert look.attention.min() >= 0
        assert not look.attention.requires_grad
        assert look.selected is None


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "transmil"])
def test_the_order_of_patches_does_not_matter(name):
    low, high = tables(15)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(2))
    moved = [low[order], high.view(15, CHILDREN, -1)[order].reshape(60, -1)]
    model = make(name)
    prediction = model(StoredBag(moved, cells=lambda step, rows: cells(step, order.numpy()[rows])))
    torch.testing.assert_close(
        prediction.logits, model(StoredBag([low, high], cells=cells)).logits, rtol=1e-4, atol=1e-5
    )
