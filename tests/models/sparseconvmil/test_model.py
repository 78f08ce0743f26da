import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from parfocal.bag import StoredBag
from parfocal.models import SparseConvMIL
from parfocal.models.sparseconvmil.model import augment_positions


def test_it_has_the_parameters_of_the_authors_model():
    assert sum(weight.numel() for weight in SparseConvMIL(1024, 3).parameters()) == 305_347


def test_it_equals_dense_convolutions_masked_to_the_sites():
    torch.manual_seed(0)
    model = SparseConvMIL(4, 3, dim=6, downsample=2).eval()
    places = np.array([[0, 0], [1, 1], [2, 0], [9, 9], [8, 9], [3, 3]])
    rows = torch.randn(6, 4)
    dense, count = torch.zeros(4, 5, 5), torch.zeros(5, 5)
    for (column, row), features in zip(places // 2, rows, strict=True):
        dense[:, row, column] += features
        count[row, column] += 1
    exists = count > 0
    dense = dense / count.clamp(min=1)
    for layer in model.convolutions:
        size = dense.shape[0]
        kernel = layer.projection.weight.view(3, 3, 6, size).permute(2, 3, 0, 1)
        dense = F.conv2d(dense[None], kernel, layer.bias, padding=1)[0].relu() * exists
    expected = model.classifier(dense[:, exists].mean(dim=1))
    prediction = model(StoredBag([rows], cells=lambda step, rows: places[rows]))
    torch.testing.assert_close(prediction.logits, expected)
    shares = torch.tensor([1 / 8, 1 / 8, 1 / 4, 1 / 8, 1 / 8, 1 / 4])
    torch.testing.assert_close(prediction.scores[0], shares)


def test_positions_are_augmented_in_training_only_with_the_generator():
    model = SparseConvMIL(4, 3, downsample=2, generator=torch.Generator())
    bag = StoredBag(
        [torch.randn(40, 4)], cells=lambda step, rows: np.stack([rows % 7, rows // 7], 1)
    )

    def logits(seed: int, *, training: bool) -> torch.Tensor:
        model.generator.manual_seed(seed)
        return model.train(training)(bag).logits

    assert logits(0, training=False).equal(logits(1, training=False))
    assert logits(0, training=True).equal(logits(0, training=True))
    assert not logits(0, training=True).equal(logits(1, training=True))


def test_positions_are_rotated_by_any_angle_and_scaled_by_up_to_three_tenths():
    cells = torch.tensor([[0, 0], [100_000, 0], [0, 100_000]])
    angles, generator = [], torch.Generator().manual_seed(0)
    for _ in range(200):
        origin, *ends = augment_positions(cells, generator)
        for end in ends:
            assert 0.7 - 1e-3 <= math.dist(end, origin) / 100_000 <= 1.3 + 1e-3
        angles.append(math.atan2(*(ends[0] - origin).tolist()))
    quarter = np.histogram(angles, bins=4, range=(-math.pi, math.pi))[0]
    assert quarter.min() > 20


def test_a_bag_without_positions_is_an_error():
    with pytest.raises(ValueError, match="the bag has no positions"):
        SparseConvMIL(4, 3)(StoredBag([torch.zeros(3, 4)]))


def test_a_site_narrower_than_a_patch_is_an_error():
    with pytest.raises(ValueError, match="downsample=0: a site is at least 1 patch wide"):
        SparseConvMIL(4, 3, downsample=0)
