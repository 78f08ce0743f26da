import numpy as np
import pytest
import torch
from jaxtyping import Int64
from torch import Tensor

from parfocal.bag import Bag, FeatureTable, StoredBag


class RecordingTable:
    """A feature table that is not a tensor and records the rows that are read."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.read: list[int] = []

    @property
    def shape(self) -> torch.Size:
        return self.table.shape

    def __getitem__(self, rows: Int64[Tensor, " n"], /) -> Tensor:
        self.read += rows.tolist()
        return self.table[rows]


def tables_of(*counts: int, dim: int = 3, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, dim, generator=generator).to(dtype) for n in counts]


def mixing(slots: int, rows: int, *, share: float = 0.5) -> Tensor:
    """Return a sparse selection whose rows sum to 1."""
    generator = torch.Generator().manual_seed(slots * rows)
    weights = torch.rand(slots, rows, generator=generator)
    weights = weights * (torch.rand(slots, rows, generator=generator) < share)
    weights[:, 0] += 0.1
    return weights / weights.sum(dim=1, keepdim=True)


def kronecker(select: Tensor, table: Tensor, children: int) -> Tensor:
    """Mix every child of every patch with a dense matrix, as published."""
    return torch.kron(select, torch.eye(children, dtype=select.dtype)) @ table


def test_a_stored_bag_is_a_bag_and_a_tensor_is_a_feature_table():
    assert isinstance(StoredBag(tables_of(2)), Bag)
    assert isinstance(torch.zeros(2, 3), FeatureTable)


def test_zoom_keeps_the_children_of_the_selected_patch():
    parents, children = torch.zeros(3, 2), torch.arange(12.0).reshape(6, 2)
    third = torch.tensor([[0.0, 0.0, 1.0]])
    zoomed = StoredBag((parents, children)).zoom(third)
    assert zoomed.features().tolist() == [[8, 9], [10, 11]]
    assert zoomed.rows.tolist() == [4, 5]


def test_zooming_without_a_selection_returns_all_children():
    low, mid, high = tables_of(2, 4, 8)
    bag = StoredBag((low, mid, high)).zoom(None)
    assert bag.features().equal(mid)
    assert bag.zoom(None).rows.tolist() == list(range(8))


def test_zooming_without_a_selection_works_on_mixtures():
    tables, select = tables_of(3, 6, 12), mixing(2, 3)
    bag = StoredBag(tables).zoom(select)
    torch.testing.assert_close(bag.zoom(None).features(), bag.zoom(torch.eye(4)).features())


def test_a_bag_returns_the_grid_cells_of_its_patches():
    def cells(step: int, rows: np.ndarray) -> np.ndarray:
        return np.stack([rows, rows + step], axis=1)

    bag = StoredBag(tables_of(3, 6), cells=cells)
    assert bag.cells().tolist() == [[0, 0], [1, 1], [2, 2]]
    last = bag.zoom(torch.tensor([[0.0, 0.0, 1.0]]))
    assert last.cells().tolist() == [[4, 5], [5, 6]]


def test_cells_of_patches_without_positions_are_an_error():
    with pytest.raises(
        ValueError, match=r"no positions, and the model needs them; build the bag with cells="
    ):
        StoredBag(tables_of(3)).cells()
    mixed = StoredBag(tables_of(3, 6)).zoom(mixing(2, 3))
    with pytest.raises(ValueError, match="mixtures of several"):
        mixed.cells()


def test_zoom_mixes_the_children_as_it_mixes_the_patches():
    parents, children = torch.zeros(2, 1), torch.tensor([[1.0], [2.0], [10.0], [20.0]])
    zoomed = StoredBag((parents, children)).zoom(torch.tensor([[0.25, 0.75]]))
    assert zoomed.features().tolist() == [[7.75], [15.5]]
    assert zoomed.rows.tolist() == [-1, -1]


@pytest.mark.parametrize("recorded", [False, True])
def test_two_zooms_equal_the_dense_kronecker_matrices(recorded):
    _, mid, high = tables = tables_of(6, 24, 384)
    first, second = mixing(3, 6), mixing(5, 12)
    bag = StoredBag([RecordingTable(table) for table in tables] if recorded else tables)
    zoomed = bag.zoom(first)
    torch.testing.assert_close(zoomed.features(), kronecker(first, mid, 4))
    dense = kronecker(second, kronecker(first, high, 64), 16)
    torch.testing.assert_close(zoomed.zoom(second).features(), dense)


def test_four_magnifications_equal_the_dense_kronecker_matrices():
    tables = tables_of(4, 8, 24, 96)
    selects = mixing(3, 4), mixing(4, 6), mixing(2, 12)
    bag = StoredBag(tables).zoom(selects[0]).zoom(selects[1]).zoom(selects[2])
    dense = kronecker(
        selects[2], kronecker(selects[1], kronecker(selects[0], tables[3], 24), 12), 4
    )
    torch.testing.assert_close(bag.features(), dense)


def test_a_one_hot_zoom_copies_features_bit_for_bit():
    _, mid, high = tables = tables_of(6, 24, 96)
    first, second = torch.eye(6)[[1, 4]], torch.eye(8)[[0, 5, 7]]
    zoomed = StoredBag(tables).zoom(first)
    assert zoomed.features().equal(mid[[4, 5, 6, 7, 16, 17, 18, 19]])
    rows = [4 * row + child for row in (4, 17, 19) for child in range(4)]
    assert zoomed.zoom(second).features().equal(high[rows])
    assert zoomed.zoom(second).rows.tolist() == rows


def test_gradients_flow_through_two_zooms_to_selections_and_features():
    low, mid, high = (table.requires_grad_() for table in tables_of(3, 6, 24, dtype=torch.float64))
    first, second = mixing(2, 3).double(), mixing(3, 4).double()
    kept = first > 0, second > 0  # an entry that was not drawn has no gradient

    def zoom(a: Tensor, b: Tensor, mid: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        zoomed = StoredBag((low, mid, high)).zoom(
            torch.zeros(2, 3).double().masked_scatter(kept[0], a)
        )
        select = torch.zeros(3, 4).double().masked_scatter(kept[1], b)
        return zoomed.features(), zoomed.zoom(select).features()

    drawn = first[kept[0]].requires_grad_(), second[kept[1]].requires_grad_()
    assert torch.autograd.gradcheck(zoom, (*drawn, mid, high))


def test_only_children_of_patches_with_a_weight_are_read():
    low, mid, high = (RecordingTable(table) for table in tables_of(4, 8, 32))
    zoomed = StoredBag((low, mid, high)).zoom(torch.tensor([[0.5, 0, 0.5, 0], [0, 0, 1, 0]]))
    zoomed.features()
    assert sorted(mid.read) == [0, 1, 4, 5]
    zoomed.zoom(torch.tensor([[0.0, 0, 0, 1]])).features()
    assert sorted(high.read) == [20, 21, 22, 23]
    assert low.read == []


def test_half_precision_is_converted_to_single():
    mid = torch.tensor([[1.0], [2.0], [3.0], [4.0]]).half()
    bag = StoredBag((mid[:2], mid))
    assert bag.features().dtype == torch.float32
    assert bag.zoom(torch.eye(2)[1:]).features().tolist() == [[3], [4]]
    assert bag.zoom(torch.tensor([[0.5, 0.5]])).features().tolist() == [[2], [3]]


def test_a_mixture_is_valid_if_one_of_its_patches_exists():
    tables = tables_of(2, 4)
    valid = (torch.tensor([True, True]), torch.tensor([True, False, False, False]))
    bag = StoredBag(tables, valid=valid)
    assert bag.valid.tolist() == [True, True]
    assert bag.zoom(torch.eye(2)[1:]).valid.tolist() == [False, False]
    assert bag.zoom(torch.tensor([[0.5, 0.5]])).valid.tolist() == [True, False]


def test_all_patches_are_valid_by_default():
    bag = StoredBag(tables_of(2, 4))
    assert bag.valid.tolist() == [True, True]
    assert bag.zoom(torch.tensor([[0.5, 0.5]])).valid.tolist() == [True, True]


def test_magnifications_that_do_not_nest_are_an_error():
    with pytest.raises(
        ValueError, match=r"magnifications of \[3, 7\] patches are not nested: 7 .* of 3"
    ):
        StoredBag(tables_of(3, 7))


def test_zooming_past_the_highest_magnification_is_an_error():
    with pytest.raises(ValueError, match="has 1 magnifications, and this is the highest"):
        StoredBag(tables_of(2)).zoom(torch.eye(2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("half", [False, True])
def test_a_bag_on_a_gpu_returns_the_same_features_as_on_the_cpu(half):
    tables = tables_of(6, 24, 96, dtype=torch.float16 if half else torch.float32)
    first, second = mixing(3, 6), mixing(5, 12)
    here = StoredBag(tables).zoom(first).zoom(second).features()
    there = StoredBag([table.cuda() for table in tables]).zoom(first.cuda()).zoom(second.cuda())
    torch.testing.assert_close(there.features().cpu(), here)
