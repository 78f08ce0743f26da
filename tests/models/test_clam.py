import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)
from torch import Tensor

from parfocal.bag import StoredBag
from parfocal.models import CLAM


@pytest.fixture
def rows():
    return torch.randn(30, 5, generator=torch.Generator().manual_seed(0))


def make(**settings: object) -> CLAM:
    torch.manual_seed(0)
    return CLAM(5, 3, **{"dim": 8, "hidden_dim": 4, "dropout": 0.0, **settings})


def cross_entropy(scores: Tensor, label: int) -> float:
    return math.log(sum(math.exp(score) for score in scores.tolist())) - scores[label].item()


def svm(scores: Tensor, label: int) -> float:
    margins = [score + (place != label) for place, score in enumerate(scores.tolist())]
    return math.log(sum(math.exp(margin) for margin in margins)) - scores[label].item()


def test_the_single_branch_has_the_parameters_of_the_authors_model():
    assert sum(weight.numel() for weight in CLAM(1024, 3).parameters()) == 792_330


@pytest.mark.parametrize("name", ["svm", "cross_entropy"])
@pytest.mark.parametrize("subtyping", [True, False])
def test_the_loss_equals_the_published_one_in_plain_loops(rows, name, subtyping):
    plain = {"svm": svm, "cross_entropy": cross_entropy}[name]
    model = make(num_instances=2, instance_loss=name, subtyping=subtyping)
    prediction = model(StoredBag([rows]))
    h, order = model.embedder(rows), prediction.scores[0].argsort(descending=True).tolist()
    instances = [(1, i, 1) for i in order[:2]] + [(1, i, 0) for i in order[-2:]]
    losses = [sum(plain(model.instance_classifiers[c](h[i]), y) for c, i, y in instances) / 4]
    if subtyping:
        losses += [
            sum(plain(model.instance_classifiers[c](h[i]), 0) for i in order[:2]) / 2
            for c in (0, 2)
        ]
    expected = 0.7 * cross_entropy(prediction.logits, 1) + 0.3 * sum(losses) / len(losses)
    assert model.objective(prediction, torch.tensor(1), F.cross_entropy).item() == pytest.approx(
        expected, rel=1e-5
    )


def test_each_of_several_branches_computes_the_logit_of_its_class(rows):
    model = make(branches="multiple")
    prediction = model(StoredBag([rows]))
    h = model.embedder(rows)
    hidden = torch.tanh(model.attention.value(h)) * torch.sigmoid(model.attention.gate(h))
    for c in range(3):
        scores = hidden @ model.attention.score.weight[c] + model.attention.score.bias[c]
        a = scores.softmax(dim=0)
        logit = model.classifier.weight[c] @ (a @ h) + model.classifier.bias[c]
        torch.testing.assert_close(prediction.logits[c], logit)
        if c == prediction.logits.argmax():
            torch.testing.assert_close(prediction.scores[0], a.detach())


@pytest.mark.parametrize(
    ("patches", "instances"), [(1, 0), (2, 2), (5, 4), (15, 14), (16, 16), (30, 16)]
)
def test_no_patch_is_both_a_positive_and_a_negative_instance(rows, patches, instances):
    model = make(num_instances=8)
    prediction = model(StoredBag([rows[:patches]]))
    assert prediction.terms["instances"].shape == (3, instances, 2)
    assert model.objective(prediction, torch.tensor(0), F.cross_entropy).isfinite()


def test_every_instance_is_another_patch(rows):
    model = make(num_instances=8)
    instances = model(StoredBag([rows[:5]])).terms["instances"][0]
    assert len({tuple(scores) for scores in instances.tolist()}) == 4


def test_without_dropout_training_is_deterministic(rows):
    model = make(dropout=0.0).train()
    bag = StoredBag([rows])
    assert model(bag).logits.equal(model(bag).logits)


def test_unknown_choices_are_an_error():
    with pytest.raises(ValueError, match="branches='two' is unknown; use one of"):
        make(branches="two")
    with pytest.raises(ValueError, match="instance_loss='hinge' is unknown; use one of"):
        make(instance_loss="hinge")
