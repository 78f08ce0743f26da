import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.models import ABMIL, MSMIL


@pytest.fixture
def tables():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 5, generator=generator) for n in (3, 12, 48)]


def make(**settings: object) -> MSMIL:
    torch.manual_seed(0)
    return MSMIL(5, 2, **{"dim": 8, "hidden_dim": 4, "num_slides": 3, **settings})


def test_it_is_attention_over_all_magnifications_at_once(tables):
    model = make().eval()
    union = ABMIL(5, 2, dim=8, hidden_dim=4, gated=False).eval()
    union.load_state_dict(model.state_dict())
    several, one = model(StoredBag(tables)), union(StoredBag([torch.cat(tables)]))
    torch.testing.assert_close(several.logits, one.logits)
    whole = one.attention[0][3:15]
    torch.testing.assert_close(several.attention[1], whole / whole.sum())


def test_the_adversary_learns_the_slide_and_the_embedding_to_hide_it(tables):
    """Against the same loss without reversal: λ (max a - a_i) of its gradient, and against it."""
    model = make(adversarial=True, adversary_weight=1.0).train()
    model.set_progress(0.1)
    model.set_slide(2)
    term = model(StoredBag(tables)).terms["slide"]
    embedding, adversary = model.embed[0].weight, model.adversary[0].weight
    found = torch.autograd.grad(term, [embedding, adversary])

    h = model.embed(torch.cat(tables))
    attention = model.attend(h).softmax(dim=0)
    weight = 2 / (1 + torch.exp(torch.tensor(-1.0))) - 1  # λ at a tenth of the training
    weight = (weight * (attention.max() - attention)).detach()
    loss = torch.nn.functional.cross_entropy(model.adversary(h), torch.full((63,), 2))
    (given,) = torch.autograd.grad(loss, h, retain_graph=True)
    expected = torch.autograd.grad(h, embedding, -weight[:, None] * given, retain_graph=True)[0]
    torch.testing.assert_close(term, loss)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], torch.autograd.grad(loss, adversary)[0])


def test_the_adversarys_loss_is_added(tables):
    model = make(adversarial=True).train()
    prediction = model(StoredBag(tables))
    plain = torch.nn.functional.cross_entropy(prediction.logits[None], torch.tensor([1]))
    loss = model.objective(prediction, torch.tensor(1))
    torch.testing.assert_close(loss, plain + prediction.terms["slide"])


def test_without_an_adversary_there_is_none(tables):
    model = make().train()
    assert model.adversary is None
    assert model(StoredBag(tables)).terms == {}
