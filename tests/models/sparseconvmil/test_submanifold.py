import torch
import torch.nn.functional as F  # noqa: N812

from parfocal.models.sparseconvmil.submanifold import SubmanifoldConv, find_neighbors


def test_it_equals_a_dense_convolution_masked_to_the_sites():
    generator = torch.Generator().manual_seed(0)
    exists = torch.rand(9, 11, generator=generator) < 0.4
    row, column = exists.nonzero(as_tuple=True)
    x = torch.randn(len(row), 5, generator=generator, requires_grad=True)
    conv = SubmanifoldConv(5, 3)
    torch.nn.init.normal_(conv.bias)

    dense = torch.zeros(5, 9, 11).index_put((torch.arange(5)[:, None], row, column), x.T)
    kernel = conv.projection.weight.view(3, 3, 3, 5).permute(2, 3, 0, 1)
    expected = F.conv2d(dense[None], kernel, conv.bias, padding=1)[0][:, row, column].T

    shuffled = torch.randperm(len(row), generator=generator)
    cells = torch.stack([column, row], dim=1)[shuffled] - 4  # anywhere, in any order
    found = conv(x[shuffled], find_neighbors(cells))
    torch.testing.assert_close(found, expected[shuffled])
    weight = torch.randn(found.shape, generator=generator)
    gradients = [
        torch.autograd.grad((y * w).sum(), [x, conv.projection.weight], retain_graph=True)
        for y, w in ((found, weight), (expected[shuffled], weight))
    ]
    torch.testing.assert_close(*gradients)


def test_rows_do_not_continue_in_the_next_row():
    cells = torch.tensor([[0, 0], [5, 0], [0, 1]])
    neighbors = find_neighbors(cells)
    assert neighbors[0].tolist() == [-1, -1, -1, -1, 0, -1, -1, 2, -1]
    assert neighbors[1].tolist() == [-1, -1, -1, -1, 1, -1, -1, -1, -1]


def test_a_single_site_has_only_itself():
    assert find_neighbors(torch.tensor([[7, -3]])).tolist() == [[-1] * 4 + [0] + [-1] * 4]
