import pytest
import torch

from parfocal.bag import StoredBag
from parfocal.models import ABMIL, ZoomMIL


@pytest.fixture
def rows():
    return torch.randn(9, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gated", [True, False])
def test_it_computes_the_published_attention(rows, gated):
    model = ABMIL(5, 3, dim=8, hidden_dim=4, gated=gated).eval()
    h = model.embedder(rows)
    attention = model.attention
    hidden = torch.tanh(attention.value(h))
    hidden = hidden * torch.sigmoid(attention.gate(h)) if gated else hidden
    a = torch.softmax(hidden @ attention.score.weight[0] + attention.score.bias, dim=0)
    expected = model.classifier((a[:, None] * h).sum(dim=0))
    prediction = model(StoredBag([rows]))
    torch.testing.assert_close(prediction.logits, expected)
    torch.testing.assert_close(prediction.scores[0], a.detach())


def test_it_has_the_parameters_of_zoommil_at_one_magnification():
    counts = [
        sum(weight.numel() for weight in model.parameters())
        for model in (ABMIL(1024, 3), ZoomMIL(1024, 3, num_magnifications=1))
    ]
    assert counts == [789_252, 789_252]
