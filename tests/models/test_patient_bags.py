"""What every model of bags has to do with the bag of a patient: several slides at once.

All models in `MODELS` that take features are tested. The grids of the two slides overlap, so that
patches of both have the same cells.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parfocal.bag import StoredBag
from parfocal.cost import CostMeter
from parfocal.features.forest import JoinedTable, join_bags
from parfocal.features.slide_input import BagInput
from parfocal.grid import PatchGrid
from parfocal.models import MODELS
from parfocal.models.paths import SlideSummary
from parfocal.models.sparseconvmil.submanifold import find_neighbors
from parfocal.models.transmil.nystrom import NystromAttention

FEATURES, CLASSES = 5, 3
SMALL: dict[str, dict[str, object]] = {
    "zoommil": {"dim": 8, "k": 2},
    "abmil": {"dim": 8, "hidden_dim": 4},
    "clam": {"dim": 8, "hidden_dim": 4},
    "transmil": {"dim": 8, "num_heads": 2, "num_landmarks": 4},
    "dsmil": {"query_dim": 4},
    "msmil": {"dim": 8, "hidden_dim": 4},
    "sparseconvmil": {"dim": 8, "downsample": 1},
    "ips": {"num_selected": 6, "chunk_size": 4, "dim": 8, "num_heads": 2},
    "mean": {"dim": 8},
    "max": {"dim": 8},
}
NAMES = [name for name, model in MODELS.items() if model.traits.takes == "features"]


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]
    arguments = model.run_arguments(
        in_dim=FEATURES, num_classes=CLASSES, num_slides=2, magnifications=(5, 10), patch_size=8
    )
    return model.build(**arguments, **SMALL.get(name, {})).eval()


def slide(columns: int, *, seed: int, shift: int = 0) -> BagInput:
    """Return a slide of two rows of patches at 5x and their children at 10x."""
    grid = PatchGrid(
        mpps=(2.0, 1.0),
        patch_size=8,
        slide_size=(16 * (columns + shift), 32),
        slide_mpp=1.0,
        roots=np.array([[shift + column, row] for row in (0, 1) for column in range(columns)]),
        sharpest_patches=8 * columns,
    )
    generator = torch.Generator().manual_seed(seed)
    tables = [torch.randn(count, FEATURES, generator=generator) for count in grid.counts]
    valid = [torch.from_numpy(grid.valid(step)) for step in (0, 1)]
    return BagInput(StoredBag(tables, valid=valid, cells=grid.cells), grid, (0, 1), CostMeter())


def logits(name: str, slides: Sequence[BagInput]) -> Tensor:
    with torch.no_grad():
        prediction = make(name)(join_bags(slides))
    assert isinstance(prediction.logits, Tensor)
    return prediction.logits


@pytest.mark.parametrize("name", NAMES)
def test_a_patient_with_one_slide_is_the_slide(name):
    each = slide(3, seed=0)
    with torch.no_grad():
        alone = make(name)(each.model_input).logits
    assert torch.equal(logits(name, [each]), alone)


# PATHS encodes the place of a patch on its slide, which is another place if the slide is shifted.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "paths"])
def test_no_model_takes_patches_of_two_slides_for_neighbors(name):
    first = slide(3, seed=0)
    beside = logits(name, [first, slide(4, seed=1)])
    apart = logits(name, [first, slide(4, seed=1, shift=100)])
    assert torch.equal(beside, apart)
    assert not torch.equal(beside, logits(name, [first]))


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_over_the_patient(name):
    with torch.no_grad():
        looks = make(name)(join_bags([slide(3, seed=0), slide(4, seed=1)])).looks
    assert len(looks[0].rows) == 14
    for look in looks:
        assert look.score.sum().item() == pytest.approx(1, abs=1e-5)


def test_one_top_k_serves_all_slides():
    slides = [slide(2, seed=0), slide(2, seed=1), slide(2, seed=2)]
    model = make("zoommil")
    with torch.no_grad():
        low, high = model(join_bags(slides)).looks
    assert low.selected is not None
    assert len(low.selected) == 2  # k, over three slides
    assert len(high.rows) == 8
    assert sorted(set((high.rows // 4).tolist())) == sorted(low.rows[low.selected].tolist())


def test_joined_tables_are_the_tables_one_below_the_other():
    tables = [torch.randn(3, 2), torch.randn(4, 2), torch.randn(1, 2)]
    read: list[int] = []

    class Enter:
        def __init__(self, slide: int) -> None:
            self.slide = slide

        def __enter__(self) -> None:
            read.append(self.slide)

        def __exit__(self, *_: object) -> None:
            pass

    joined = JoinedTable(tables, Enter)
    assert joined.shape == (8, 2)
    for rows in ([0, 7, 3], [4, 3, 0, 7, 2, 4], [5], list(range(8))):
        assert torch.equal(joined[torch.tensor(rows)], torch.cat(tables)[rows])
    assert read[:3] == [0, 1, 2]  # each slide once
    assert joined[torch.tensor([], dtype=torch.int64)].shape == (0, 2)


def test_rows_cells_and_slides_of_a_forest_are_those_of_the_slides():
    slides = [slide(2, seed=0), slide(3, seed=1)]
    bag = join_bags(slides)
    assert bag.slides().tolist() == [0] * 4 + [1] * 6
    assert bag.cells().tolist() == [
        *([0, 0], [1, 0], [0, 1], [1, 1]),
        *([0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]),
    ]
    select = torch.zeros(2, 10)
    select[0, 9], select[1, 1] = 1, 1  # the last patch of the second slide comes first
    children = bag.zoom(select)
    assert children.slides().tolist() == [1] * 4 + [0] * 4
    second, first = (
        slides[1].model_input.zoom(select[:1, 4:]),
        slides[0].model_input.zoom(select[1:, :4]),
    )
    assert torch.equal(children.cells(), torch.cat([second.cells(), first.cells()]))
    assert torch.equal(children.features(), torch.cat([second.features(), first.features()]))


def test_a_mixture_of_slides_has_no_slide():
    select = torch.full((1, 8), 1 / 8)
    bag = join_bags([slide(2, seed=0), slide(2, seed=1)]).zoom(select)
    with pytest.raises(ValueError, match=r"mixtures of several, which may be of different slides"):
        bag.slides()


def test_sites_of_two_slides_are_no_neighbors():
    cells = torch.tensor([[0, 0], [1, 0], [0, 0], [0, 1]])
    neighbors = find_neighbors(cells, torch.tensor([0, 0, 1, 1]))
    for site, others in enumerate(neighbors.tolist()):
        expected = {0, 1} if site < 2 else {2, 3}
        assert set(others) - {-1} == expected


def test_the_convolution_over_values_stops_at_the_end_of_a_slide():
    torch.manual_seed(0)
    attention = NystromAttention(8, num_heads=2, head_dim=4, dropout=0.0)
    seen: list[int] = []
    attention.value_convolution.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[2])
    )
    attention(torch.randn(9, 8), [5, 4])
    assert seen == [5, 4]


def test_the_square_of_transmil_has_the_patches_of_one_slide():
    model = make("transmil")
    sides: list[int] = []
    model.position_convolutions[0].register_forward_hook(
        lambda module, inputs, output: sides.append(inputs[0].shape[2])
    )
    with torch.no_grad():
        model(join_bags([slide(3, seed=0), slide(8, seed=1)]))
    assert sides == [3, 4]  # of 6 and 16 patches


def test_patches_in_paths_attend_to_those_of_their_slide_and_the_class_token_to_all():
    torch.manual_seed(0)
    summary = SlideSummary(5, 8, num_heads=2, num_layers=1, dropout=0.0).eval()
    tokens: list[Tensor] = []
    summary.transformer.register_forward_hook(lambda module, given, out: tokens.append(out[0]))
    first, second = torch.randn(3, 5), torch.randn(2, 5, requires_grad=True)
    cells = torch.tensor([[0, 0], [1, 0], [2, 0], [0, 0], [1, 0]])
    summary(torch.cat([first, second]), cells, torch.tensor([0, 0, 0, 1, 1]))
    to_patches, to_token = (
        torch.autograd.grad(each[..., 0].square().sum(), second, retain_graph=True)[0]
        for each in (tokens[0][1:4], tokens[0][:1])
    )
    assert to_patches.abs().max() == 0
    assert to_token.abs().min() > 0
