import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own short name)

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
    whole = one.scores[0][3:15]
    torch.testing.assert_close(several.scores[1], whole / whole.sum())


def test_the_gradient_of_the_adversary_is_reversed_in_the_embedding(tables):
    """The embedding gets -λ (max a - a_i) times the gradient of the loss without reversal."""
    model = make(adversarial=True, adversary_growth=1.0).train()
    model.set_progress(0.1)
    model.set_slide(2)
    term = model(StoredBag(tables)).terms["adversary"]
    embedding, adversary = model.embedder[0].weight, model.adversary[0].weight
    gradients = torch.autograd.grad(term, [embedding, adversary])

    h = model.embedder(torch.cat(tables))
    attention = model.attention(h).softmax(dim=0)
    weight = 2 / (1 + torch.exp(torch.tensor(-1.0))) - 1  # λ after a tenth of the training
    weight = (weight * (attention.max() - attention)).detach()
    loss = torch.nn.functional.cross_entropy(model.adversary(h), torch.full((63,), 2))
    (plain,) = torch.autograd.grad(loss, h, retain_graph=True)
    expected = torch.autograd.grad(h, embedding, -weight[:, None] * plain, retain_graph=True)[0]
    torch.testing.assert_close(term, loss)
    torch.testing.assert_close(gradients[0], expected)
    torch.testing.assert_close(gradients[1], torch.autograd.grad(loss, adversary)[0])


def test_the_loss_of_the_adversary_is_added(tables):
    model = make(adversarial=True).train()
    prediction = model(StoredBag(tables))
    plain = torch.nn.functional.cross_entropy(prediction.logits[None], torch.tensor([1]))
    loss = model.objective(prediction, torch.tensor(1), F.cross_entropy)
    torch.testing.assert_close(loss, plain + prediction.terms["adversary"])


def test_there_is_no_adversary_by_default(tables):
    model = make().train()
    assert model.adversary is None
    assert model(StoredBag(tables)).terms == {}
