import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)

from parfocal.bag import StoredBag
from parfocal.models.patchsupervised import PatchSupervised
from parfocal.prediction import Prediction


@pytest.fixture
def rows():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PatchSupervised(4, 3, dim=8, top_k=2, negative_class=1).eval()


def with_touching(prediction: Prediction, touching: torch.Tensor) -> Prediction:
    return replace(prediction, terms={**prediction.terms, "touching": touching})


def test_a_slide_is_classified_by_the_patches_with_the_most_evidence(model, rows):
    prediction = model(StoredBag([rows]))
    probabilities = model.classifier(model.embedder(rows)).softmax(dim=1)
    best = sorted(range(6), key=lambda row: probabilities[row, 1].item())[
        :2
    ]  # least likely negative_class
    expected = model.classifier(model.embedder(rows[best])).mean(dim=0)
    torch.testing.assert_close(prediction.logits, expected)
    assert sorted(prediction.scores[0].topk(2).indices.tolist()) == sorted(best)


def test_patches_that_do_not_exist_have_no_effect(model, rows):
    valid = torch.tensor([True, False, True, True, False, True])
    prediction = model(StoredBag([rows], valid=[valid]))
    torch.testing.assert_close(prediction.logits, model(StoredBag([rows[valid]])).logits)
    assert prediction.scores[0][~valid].tolist() == [0, 0]
    assert len(prediction.terms["patches"]) == 4


def test_patches_on_lesions_weigh_as_much_as_all_others(model, rows):
    prediction = model(StoredBag([rows]))
    touching = torch.tensor([False, False, True, False, False, False])
    probabilities = prediction.terms["patches"].detach().softmax(dim=1)
    lesion = -math.log(probabilities[2, 0])
    negative = [-math.log(probabilities[row, 1]) for row in range(6) if row != 2]
    loss = model.objective(
        with_touching(prediction, touching), torch.tensor(0), F.cross_entropy
    ).item()
    assert loss == pytest.approx((lesion + sum(negative) / 5) / 2, rel=1e-5)


def test_the_loss_of_the_task_is_used(model, rows):
    prediction = model(StoredBag([rows]))
    touching = torch.tensor([False, True, False, False, False, False])
    smoothed = partial(F.cross_entropy, label_smoothing=0.1)
    loss = model.objective(with_touching(prediction, touching), torch.tensor(0), smoothed)
    p = prediction.terms["patches"].detach().log_softmax(dim=1)
    each = [-(0.9 * p[i, 0 if i == 1 else 1] + 0.1 * p[i].mean()) for i in range(6)]
    expected = (each[1] + (sum(each) - each[1]) / 5) / 2
    torch.testing.assert_close(loss.detach(), expected)


def test_all_patches_of_a_slide_without_lesion_are_negative(model, rows):
    prediction = model(StoredBag([rows]))
    nowhere = torch.zeros(6, dtype=torch.bool)
    loss = model.objective(with_touching(prediction, nowhere), torch.tensor(1), F.cross_entropy)
    negative = -prediction.terms["patches"].log_softmax(dim=1)[:, 1].mean()
    torch.testing.assert_close(loss, negative)


def test_a_slide_with_fewer_than_top_k_patches_is_classified(model, rows):
    assert model(StoredBag([rows[:1]])).logits.isfinite().all()


def test_a_negative_class_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="negative_class=2: the labels are numbered 0 to 1"):
        PatchSupervised(4, 2, negative_class=2)


def test_a_top_k_of_zero_is_an_error():
    with pytest.raises(ValueError, match="top_k=0: at least 1 patch is needed"):
        PatchSupervised(4, 2, top_k=0)
