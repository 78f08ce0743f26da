import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from parfocal.bag import StoredBag
from parfocal.models import SparseConvMIL
from parfocal.models.sparseconvmil.model import moved


def test_it_has_the_parameters_of_the_authors_model():
    assert sum(weight.numel() for weight in SparseConvMIL(1024, 3).parameters()) == 305_347


def test_it_is_a_dense_network_masked_to_the_sites_of_the_mean_patches():
    torch.manual_seed(0)
    model = SparseConvMIL(4, 3, dim=6, downsample=2).eval()
    places = np.array([[0, 0], [1, 1], [2, 0], [9, 9], [8, 9], [3, 3]])
    rows = torch.randn(6, 4)
    dense, count = torch.zeros(4, 5, 5), torch.zeros(5, 5)
    for (column, row), features in zip(places // 2, rows, strict=True):
        dense[:, row, column] += features
        count[row, column] += 1
    there = count > 0
    dense = dense / count.clamp(min=1)
    for layer in model.convolve:
        size = dense.shape[0]
        kernel = layer.spread.weight.view(3, 3, 6, size).permute(2, 3, 0, 1)
        dense = F.conv2d(dense[None], kernel, layer.bias, padding=1)[0].relu() * there
    expected = model.classify(dense[:, there].mean(dim=1))
    prediction = model(StoredBag([rows], cells=lambda step, rows: places[rows]))
    torch.testing.assert_close(prediction.logits, expected)
    shares = torch.tensor([1 / 8, 1 / 8, 1 / 4, 1 / 8, 1 / 8, 1 / 4])
    torch.testing.assert_close(prediction.attention[0], shares)


def test_places_move_in_training_alone_and_are_drawn_from_the_generator():
    model = SparseConvMIL(4, 3, downsample=2, generator=torch.Generator())
    bag = StoredBag(
        [torch.randn(40, 4)], cells=lambda step, rows: np.stack([rows % 7, rows // 7], 1)
    )

    def answer(seed: int, *, training: bool) -> torch.Tensor:
        model.generator.manual_seed(seed)
        return model.train(training)(bag).logits

    assert answer(0, training=False).equal(answer(1, training=False))
    assert answer(0, training=True).equal(answer(0, training=True))
    assert not answer(0, training=True).equal(answer(1, training=True))


def test_a_move_turns_by_any_angle_and_stretches_by_three_tenths_at_most():
    far = torch.tensor([[0, 0], [100_000, 0], [0, 100_000]])
    angles, generator = [], torch.Generator().manual_seed(0)
    for _ in range(200):
        origin, *ends = moved(far, generator)
        for end in ends:
            assert 0.7 - 1e-3 <= math.dist(end, origin) / 100_000 <= 1.3 + 1e-3
        angles.append(math.atan2(*(ends[0] - origin).tolist()))
    quarter = np.histogram(angles, bins=4, range=(-math.pi, math.pi))[0]
    assert quarter.min() > 20


def test_patches_without_places_are_refused():
    with pytest.raises(ValueError, match="given without places, so they lie nowhere"):
        SparseConvMIL(4, 3)(StoredBag([torch.zeros(3, 4)]))


def test_a_site_narrower_than_a_patch_is_refused():
    with pytest.raises(ValueError, match="downsample=0: a site is at least 1 patch wide"):
        SparseConvMIL(4, 3, downsample=0)
