import math

import pytest
import torch

from parfocal.models.layers.attention import GatedAttention, masked_softmax


def test_scores_are_the_published_gated_product():
    attention = GatedAttention(4, 3).eval()
    h = torch.randn(5, 4)
    v, u, w = attention.value, attention.gate, attention.score
    for row, score in zip(h, attention(h), strict=True):
        gated = torch.tanh(v.weight @ row + v.bias) * torch.sigmoid(u.weight @ row + u.bias)
        torch.testing.assert_close(score, w.weight[0] @ gated + w.bias[0])


def test_dropout_keeps_what_two_dropouts_would_keep_and_preserves_the_mean():
    attention = GatedAttention(2, 8, dropout=0.25)
    product = attention.dropout(torch.ones(100_000))
    kept = (product != 0).double()
    error = math.sqrt(0.5625 * 0.4375 / len(product))
    assert abs(kept.mean().item() - 0.75**2) <= 4 * error
    assert abs(product.mean().item() - 1) <= 4 * error / 0.5625


def test_invalid_patches_have_an_attention_of_zero():
    attention = masked_softmax(torch.tensor([1.0, 50.0, 1.0]), torch.tensor([True, False, True]))
    assert attention.tolist() == [0.5, 0, 0.5]


def test_a_bag_without_a_valid_patch_is_an_error():
    with pytest.raises(ValueError, match="the bag has no valid patch among its 3"):
        masked_softmax(torch.zeros(3), torch.zeros(3, dtype=torch.bool))
