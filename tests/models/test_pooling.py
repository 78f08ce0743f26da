import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.models import MODELS
from parfocal.models.pooling import MaxPooling, MeanPooling


@pytest.fixture
def rows():
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def test_the_mean_of_the_embedded_patches_is_classified(rows):
    model = MeanPooling(4, 2, dim=8).eval()
    prediction = model(StoredBag([rows]))
    expected = model.classifier(model.embedder(rows).mean(dim=0))
    torch.testing.assert_close(prediction.logits, expected)
    assert prediction.scores[0].tolist() == pytest.approx([0.2] * 5)


def test_the_maximum_of_the_embedded_patches_is_classified(rows):
    model = MaxPooling(4, 2, dim=8).eval()
    prediction = model(StoredBag([rows]))
    h = model.embedder(rows)
    torch.testing.assert_close(prediction.logits, model.classifier(h.amax(dim=0)))
    share = [float((h.argmax(dim=0) == row).double().mean()) for row in range(5)]
    assert prediction.scores[0].tolist() == pytest.approx(share)


@pytest.mark.parametrize("name", ["mean", "max"])
def test_patches_that_do_not_exist_have_no_effect(rows, name):
    model = MODELS[name].build(in_dim=4, num_classes=2, dim=8).eval()
    valid = torch.tensor([True, False, True, True, False])
    prediction = model(StoredBag([rows], valid=[valid]))
    torch.testing.assert_close(prediction.logits, model(StoredBag([rows[valid]])).logits)
    assert prediction.scores[0][~valid].tolist() == [0, 0]


@pytest.mark.parametrize("name", ["mean", "max"])
def test_there_is_one_look_and_no_zoom(rows, name):
    (look,) = (
        MODELS[name]
        .build(in_dim=4, num_classes=2, dim=8)(StoredBag([rows, torch.zeros(10, 4)]))
        .looks
    )
    assert look.rows.tolist() == [0, 1, 2, 3, 4]
    assert look.score.sum().item() == pytest.approx(1)
    assert look.selected is None


def test_a_bag_without_a_valid_patch_is_an_error():
    with pytest.raises(ValueError, match="the bag has no valid patch among its 2"):
        MeanPooling(4, 2)(StoredBag([torch.zeros(2, 4)], valid=[torch.zeros(2, dtype=torch.bool)]))
