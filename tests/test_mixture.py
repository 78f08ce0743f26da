import torch

from parfocal.mixture import Mixture


def test_a_mixture_mixes_first_children_with_first_children():
    mixture = Mixture(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0.5, 2.0]), 1)
    rows = torch.tensor([[1.0], [2.0], [10.0], [20.0]])
    children = torch.tensor([[0, 2], [1, 3]])  # two children of each of two patches
    assert mixture.apply(rows, children).tolist() == [[[20.5]], [[41]]]


def test_a_row_without_an_entry_is_zero():
    mixture = Mixture(torch.tensor([0, 2]), torch.tensor([1, 0]), torch.tensor([2.0, 3.0]), 4)
    mixed = mixture.apply(torch.tensor([[1.0], [10.0]]), torch.tensor([[0, 1]]))
    assert mixed.flatten().tolist() == [20, 0, 3, 0]
