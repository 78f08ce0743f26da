import math

import pytest
import torch
from torch import Tensor

from parfocal.bag import StoredBag
from parfocal.models import CLAM


@pytest.fixture
def rows():
    return torch.randn(30, 5, generator=torch.Generator().manual_seed(0))


def make(**settings: object) -> CLAM:
    torch.manual_seed(0)
    return CLAM(5, 3, **{"dim": 8, "hidden_dim": 4, "dropout": 0.0, **settings})


def cross_entropy(scores: Tensor, right: int) -> float:
    return math.log(sum(math.exp(score) for score in scores.tolist())) - scores[right].item()


def svm(scores: Tensor, right: int) -> float:
    margins = [score + (place != right) for place, score in enumerate(scores.tolist())]
    return math.log(sum(math.exp(margin) for margin in margins)) - scores[right].item()


def test_the_single_branch_has_the_parameters_of_the_authors_model():
    assert sum(weight.numel() for weight in CLAM(1024, 3).parameters()) == 792_330


@pytest.mark.parametrize("name", ["svm", "cross_entropy"])
@pytest.mark.parametrize("subtyping", [True, False])
def test_the_loss_is_the_published_one_in_plain_loops(rows, name, subtyping):
    plain = {"svm": svm, "cross_entropy": cross_entropy}[name]
    model = make(num_instances=2, instance_loss=name, subtyping=subtyping)
    prediction = model(StoredBag([rows]))
    h, order = model.embed(rows), prediction.attention[0].argsort(descending=True).tolist()
    taught = [(1, i, 1) for i in order[:2]] + [(1, i, 0) for i in order[-2:]]
    losses = [sum(plain(model.judge[c](h[i]), y) for c, i, y in taught) / 4]
    if subtyping:
        losses += [sum(plain(model.judge[c](h[i]), 0) for i in order[:2]) / 2 for c in (0, 2)]
    expected = 0.7 * cross_entropy(prediction.logits, 1) + 0.3 * sum(losses) / len(losses)
    assert model.objective(prediction, torch.tensor(1)).item() == pytest.approx(expected, rel=1e-5)


def test_each_of_several_branches_answers_for_its_own_class(rows):
    model = make(branches="multiple")
    prediction = model(StoredBag([rows]))
    h = model.embed(rows)
    hidden = torch.tanh(model.attend.value(h)) * torch.sigmoid(model.attend.gate(h))
    for c in range(3):
        scores = hidden @ model.attend.score.weight[c] + model.attend.score.bias[c]
        a = scores.softmax(dim=0)
        logit = model.classify.weight[c] @ (a @ h) + model.classify.bias[c]
        torch.testing.assert_close(prediction.logits[c], logit)
        if c == prediction.logits.argmax():
            torch.testing.assert_close(prediction.attention[0], a.detach())


@pytest.mark.parametrize(
    ("patches", "taught"), [(1, 0), (2, 2), (5, 4), (15, 14), (16, 16), (30, 16)]
)
def test_with_few_patches_none_is_taught_as_best_and_as_worst(rows, patches, taught):
    model = make(num_instances=8)
    prediction = model(StoredBag([rows[:patches]]))
    assert prediction.terms["instances"].shape == (3, taught, 2)
    assert model.objective(prediction, torch.tensor(0)).isfinite()


def test_no_patch_is_taught_twice(rows):
    model = make(num_instances=8)
    judged = model(StoredBag([rows[:5]])).terms["instances"][0]
    assert len({tuple(scores) for scores in judged.tolist()}) == 4


def test_dropout_is_what_is_asked_for(rows):
    model = make(dropout=0.0).train()
    bag = StoredBag([rows])
    assert model(bag).logits.equal(model(bag).logits)


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="branches='two' is unknown; it is 'single' or 'multiple'"):
        make(branches="two")
    with pytest.raises(ValueError, match="instance_loss='hinge' is unknown; it is one of"):
        make(instance_loss="hinge")
