import math
from dataclasses import replace

import pytest
import torch

from parfocal.bag import Prediction, StoredBag
from parfocal.models.patchsupervised import PatchSupervised


@pytest.fixture
def rows():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PatchSupervised(4, 3, dim=8, top=2, negative_class=1).eval()


def taught(prediction: Prediction, touching: torch.Tensor) -> Prediction:
    return replace(prediction, terms={**prediction.terms, "touching": touching})


def test_a_slide_is_judged_by_its_patches_of_most_evidence(model, rows):
    prediction = model(StoredBag([rows]))
    chances = model.classify(model.embed(rows)).softmax(dim=1)
    best = sorted(range(6), key=lambda row: chances[row, 1].item())[
        :2
    ]  # least likely negative_class
    expected = model.classify(model.embed(rows[best])).mean(dim=0)
    torch.testing.assert_close(prediction.logits, expected)
    assert sorted(prediction.attention[0].topk(2).indices.tolist()) == sorted(best)


def test_patches_that_do_not_exist_judge_nothing(model, rows):
    valid = torch.tensor([True, False, True, True, False, True])
    prediction = model(StoredBag([rows], valid=[valid]))
    torch.testing.assert_close(prediction.logits, model(StoredBag([rows[valid]])).logits)
    assert prediction.attention[0][~valid].tolist() == [0, 0]
    assert len(prediction.terms["patches"]) == 4


def test_patches_with_a_lesion_are_worth_as_much_as_all_others(model, rows):
    prediction = model(StoredBag([rows]))
    touching = torch.tensor([False, False, True, False, False, False])
    chances = prediction.terms["patches"].detach().softmax(dim=1)
    lesion = -math.log(chances[2, 0])
    negative_class = [-math.log(chances[row, 1]) for row in range(6) if row != 2]
    loss = model.objective(taught(prediction, touching), torch.tensor(0)).item()
    assert loss == pytest.approx((lesion + sum(negative_class) / 5) / 2, rel=1e-5)


def test_a_slide_without_lesion_teaches_that_its_patches_are_clear(model, rows):
    prediction = model(StoredBag([rows]))
    nowhere = torch.zeros(6, dtype=torch.bool)
    loss = model.objective(taught(prediction, nowhere), torch.tensor(1))
    negative_class = -prediction.terms["patches"].log_softmax(dim=1)[:, 1].mean()
    torch.testing.assert_close(loss, negative_class)


def test_more_patches_are_asked_for_than_there_are(model, rows):
    assert model(StoredBag([rows[:1]])).logits.isfinite().all()


def test_a_label_that_does_not_exist_cannot_be_the_clear_one():
    with pytest.raises(ValueError, match="negative_class=2: the labels are numbered 0 to 1"):
        PatchSupervised(4, 2, negative_class=2)


def test_a_slide_has_to_be_judged_by_a_patch():
    with pytest.raises(ValueError, match="top=0: a slide is judged by 1 patch or more"):
        PatchSupervised(4, 2, top=0)
