import torch

from parfocal.mixture import Mixture


def test_a_mixture_mixes_each_child_by_itself():
    mixture = Mixture(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0.5, 2.0]), 1)
    rows = torch.tensor([[1.0], [2.0], [10.0], [20.0]])
    at = torch.tensor([[0, 2], [1, 3]])  # two children of each of two blocks
    assert mixture.apply(rows, at).tolist() == [[[20.5]], [[41]]]


def test_a_slot_without_an_entry_is_zero():
    mixture = Mixture(torch.tensor([0, 2]), torch.tensor([1, 0]), torch.tensor([2.0, 3.0]), 4)
    mixed = mixture.apply(torch.tensor([[1.0], [10.0]]), torch.tensor([[0, 1]]))
    assert mixed.flatten().tolist() == [20, 0, 3, 0]
