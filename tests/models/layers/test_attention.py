import math

import pytest
import torch

from parfocal.models.layers.attention import GatedAttention, masked_softmax


def test_scores_are_the_gated_product_of_the_papers():
    attend = GatedAttention(4, 3).eval()
    h = torch.randn(5, 4)
    v, u, w = attend.value, attend.gate, attend.score
    for row, score in zip(h, attend(h), strict=True):
        gated = torch.tanh(v.weight @ row + v.bias) * torch.sigmoid(u.weight @ row + u.bias)
        torch.testing.assert_close(score, w.weight[0] @ gated + w.bias[0])


def test_dropout_keeps_what_both_branches_would_keep_and_the_mean_as_it_is():
    attend = GatedAttention(2, 8, dropout=0.25)
    product = attend.dropout(torch.ones(100_000))
    kept = (product != 0).double()
    error = math.sqrt(0.5625 * 0.4375 / len(product))
    assert abs(kept.mean().item() - 0.75**2) <= 4 * error
    assert abs(product.mean().item() - 1) <= 4 * error / 0.5625


def test_what_does_not_exist_gets_no_attention_at_all():
    attention = masked_softmax(torch.tensor([1.0, 50.0, 1.0]), torch.tensor([True, False, True]))
    assert attention.tolist() == [0.5, 0, 0.5]


def test_a_bag_in_which_nothing_exists_is_refused():
    with pytest.raises(ValueError, match="none of the bag's 3 patches exists"):
        masked_softmax(torch.zeros(3), torch.zeros(3, dtype=torch.bool))
