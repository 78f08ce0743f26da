import math

import pytest
import torch

from parfocal.models.layers.dropout import Dropout

ONES = torch.ones(1000, 50)


def test_the_fraction_set_to_zero_is_the_rate():
    torch.manual_seed(0)
    for rate in (0.1, 0.25, 0.4375):
        zeroed = (Dropout(rate)(ONES) == 0).double().mean().item()
        error = math.sqrt(rate * (1 - rate) / ONES.numel())
        assert abs(zeroed - rate) < 4 * error


def test_other_elements_are_scaled_so_that_the_mean_stays():
    torch.manual_seed(0)
    assert Dropout(0.2)(ONES).unique().tolist() == [0, 1.25]


def test_elements_are_set_to_zero_independently_of_their_neighbors():
    torch.manual_seed(0)
    kept = (Dropout(0.5)(ONES).flatten() > 0).double() - 0.5
    for lag in (1, 2, 3, 4):
        correlation = (kept[lag:] * kept[:-lag]).mean().item() / 0.25
        assert abs(correlation) < 4 / math.sqrt(len(kept))


def test_the_same_seed_gives_the_same_result():
    x = torch.ones(7, 3)
    torch.manual_seed(5)
    first = Dropout(0.5)(x)
    torch.manual_seed(5)
    assert torch.equal(first, Dropout(0.5)(x))


def test_only_elements_that_were_kept_get_a_gradient():
    torch.manual_seed(0)
    x = torch.ones(9, 3, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_there_is_no_dropout_outside_training():
    dropout = Dropout(0.5).eval()
    assert dropout(ONES) is ONES


def test_a_rate_of_one_is_an_error():
    with pytest.raises(ValueError, match=r"dropout=1.0: a dropout rate is at least 0"):
        Dropout(1.0)
