import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.models import MODELS
from parfocal.models.pooling import MaxPooling, MeanPooling


@pytest.fixture
def rows():
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def test_the_mean_model_classifies_the_mean_of_embedded_patches(rows):
    model = MeanPooling(4, 2, dim=8).eval()
    prediction = model(StoredBag([rows]))
    expected = model.classify(model.embed(rows).mean(dim=0))
    torch.testing.assert_close(prediction.logits, expected)
    assert prediction.attention[0].tolist() == pytest.approx([0.2] * 5)


def test_the_max_model_classifies_the_maximum_of_embedded_patches(rows):
    model = MaxPooling(4, 2, dim=8).eval()
    prediction = model(StoredBag([rows]))
    embedded = model.embed(rows)
    torch.testing.assert_close(prediction.logits, model.classify(embedded.amax(dim=0)))
    share = [float((embedded.argmax(dim=0) == row).double().mean()) for row in range(5)]
    assert prediction.attention[0].tolist() == pytest.approx(share)


@pytest.mark.parametrize("name", ["mean", "max"])
def test_patches_that_do_not_exist_do_not_count(rows, name):
    model = MODELS[name](4, 2, dim=8).eval()
    valid = torch.tensor([True, False, True, True, False])
    prediction = model(StoredBag([rows], valid=[valid]))
    torch.testing.assert_close(prediction.logits, model(StoredBag([rows[valid]])).logits)
    assert prediction.attention[0][~valid].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["mean", "max"])
def test_one_magnification_is_looked_at_and_nothing_is_zoomed_into(rows, name):
    (look,) = MODELS[name](4, 2, dim=8)(StoredBag([rows, torch.zeros(10, 4)])).looks
    assert look.rows.tolist() == [0, 1, 2, 3, 4]
    assert look.attention.sum().item() == pytest.approx(1)
    assert look.selected is None


def test_the_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="none of the bag's 2 patches exists"):
        MeanPooling(4, 2)(StoredBag([torch.zeros(2, 4)], valid=[torch.zeros(2, dtype=torch.bool)]))
